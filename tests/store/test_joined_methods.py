"""Atlases of several networks are joined image by image: methods of all, in the rows of the first."""

import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.ndimage import map_coordinates
from support import in_one_process, jpeg, samples, write_tar

from pipeline.label import CalibrationSource, iter_labels, label, read_labels
from pipeline.run import INLINE, run
from pipeline.run.append import append
from pipeline.run.extend import extend
from pipeline.run.plan import plan
from pipeline.store import Atlas, MapReader
from pipeline.truth import read_truth
from schemas.commits import DerivedCommit
from schemas.errors import RunFailedError, UsageError
from schemas.labels import LabelingSpec, LabelStatus
from schemas.policy import LabelFilter, Pamr, Policy, Threshold
from schemas.run import ModelSpec, RunSpec

Members = list[tuple[str, bytes]]
IMAGES: list[Members] = [samples(1, number) for number in range(12)]


@dataclass(frozen=True)
class World:
    """One set of images, and atlases of them.

    ``first`` and ``all`` are of one network, over two shards of 5 and 7. ``other`` is of another network, with other
    weights, input, grid and geometry, over the images in reverse order in three shards. ``alike`` is of the first
    network over these.
    """

    folder: Path
    spec: RunSpec

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def run(self, name: str, shards: str, **changes: object) -> str:
        plan(self.spec.model_copy(update={"shards": (f"{self.folder}/{shards}/*.tar",)} | changes), self.path(name))
        run(self.path(name), INLINE)
        return self.path(name)


def write(folder: Path, *shards: list[Members]) -> None:
    for index, images in enumerate(shards):
        write_tar(folder / f"{folder.name}-{index}.tar", [member for image in images for member in image])


@pytest.fixture(scope="module")
def world(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(5)
    save_file(timm.create_model("test_vit", num_classes=10, img_size=128).state_dict(), folder / "other.safetensors")
    network = ModelSpec(name="test_vit", checkpoint=str(folder / "other.safetensors"), image_size=128)
    write(folder / "shards", IMAGES[:5], IMAGES[5:])
    write(folder / "reversed", IMAGES[:7:-1], IMAGES[7:2:-1], IMAGES[2::-1])
    spec = RunSpec(shards=("",), model=checkpoint, methods=("legrad",), batch_size=4)
    world = World(folder, spec)
    with in_one_process():
        world.run("first", "shards")
        world.run("all", "shards", methods=("legrad", "attention"))
        world.run("other", "reversed", model=network, methods=("attention", "rollout"), geometry="crop")
        world.run("alike", "reversed", methods=("attention",), targets=("predicted", "label"))
    return world


@pytest.fixture(scope="module", autouse=True)
def one_process():
    with in_one_process():
        yield


@pytest.fixture(scope="module")
def joined(world: World) -> MapReader:
    return Atlas.open([f"vit={world.path('first')}", f"dino={world.path('other')}"])


def policy(*methods: str, **fields: object) -> Policy:
    return Policy(name="p", methods=methods, **({"threshold": Threshold(kind="fixed", value=0.5)} | fields))


def test_methods_have_the_name_of_their_atlas_and_rows_are_those_of_the_first(world: World, joined: MapReader) -> None:
    first, other = Atlas.open(world.path("first")), Atlas.open(world.path("other"))
    assert joined.methods == ("vit:legrad", "dino:attention", "dino:rollout")
    assert joined.samples().equals(first.samples())
    assert first.run.model.grid != other.run.model.grid
    for key in ("s0000", "s0007", "s0011"):
        assert np.array_equal(joined.map(key, "vit:legrad"), first.map(key, "legrad"))
        assert np.array_equal(joined.map(key, "dino:rollout"), other.map(key, "rollout"))
        assert np.array_equal(joined.raw(key, "dino:rollout", "label"), other.raw(key, "rollout", "label"))
    keys = first.samples(["row", "key"]).to_pylist()
    for (values, row), sample in zip(joined.dataset("dino:attention").__getitems__(range(12)), keys, strict=True):
        assert row == sample["row"]
        assert np.array_equal(values, other.map(sample["key"], "attention"))
    assert joined.show("s0003", "vit:legrad", "dino:rollout").size[0] > 300


def test_a_shard_has_the_maps_of_others_in_its_own_order(world: World, joined: MapReader) -> None:
    other = Atlas.open(world.path("other"))
    row_of = {row["key"]: row["row"] for row in other.samples(["key", "row"]).to_pylist()}
    for name in joined.shard_names:
        shard = pickle.loads(pickle.dumps(joined.of_shard(name))).shard(name)
        keys = shard.samples["key"].to_pylist()
        for place, key in enumerate(keys):
            assert np.array_equal(shard.maps("dino:attention")[place], other.map(key, "attention"))
            bounds = other.read("attention_range", row_of[key], "label")
            assert np.array_equal(shard.ranges("dino:attention")[place], bounds)
        assert not shard.flags("dino:attention").any()


def upsampled(atlas: Atlas, key: str, method: str) -> tuple[np.ndarray, np.ndarray]:
    """A map in the pixels of its image, bilinear, and the pixels that the network saw; by SciPy in float64."""
    (sample,) = (row for row in atlas.samples().to_pylist() if row["key"] == key)
    values, axes, seen = atlas.map(key, method).astype(np.float64), [], []
    for axis, (name, length) in enumerate((("y", sample["height"]), ("x", sample["width"]))):
        at_input = (np.arange(length) + 0.5 - sample[f"offset_{name}"]) / sample[f"scale_{name}"]
        size = atlas.run.model.input_size[axis]
        axes.append(at_input * values.shape[axis] / size - 0.5)
        seen.append((at_input >= 0) & (at_input <= size))
    return map_coordinates(values, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest"), np.outer(*seen)


def test_maps_of_two_networks_are_combined_in_the_pixels_of_the_image(world: World, joined: MapReader) -> None:
    """Each network sees the image in its own way: one squashes it to 10 × 10 patches, the other crops it to 8 × 8."""
    first, other = Atlas.open(world.path("first")), Atlas.open(world.path("other"))
    both = policy("vit:legrad", "dino:rollout")
    found = {label.sample["key"]: label for name in joined.shard_names for label in iter_labels(joined, name, both)}
    assert len(found) == 12
    cropped = 0
    for key, made in found.items():
        (one, one_seen), (two, two_seen) = upsampled(first, key, "legrad"), upsampled(other, key, "rollout")
        seen = one_seen & two_seen
        cropped += int((~seen).sum())
        mean = (one + two) / 2
        low, high = mean[seen].min(), mean[seen].max()
        heatmap = np.where(seen, (mean - low) / (high - low), 0)
        assert np.allclose(made.heatmap.values, heatmap, atol=2e-5)
        sure = np.abs(heatmap - 0.5) > 1e-4
        assert sure.mean() > 0.99
        assert np.array_equal(made.mask[sure], ((heatmap > 0.5) & seen)[sure])
        assert np.array_equal(made.ignore, ~seen)
        assert np.array_equal(made.unseen, ~seen)
        masks = [values[seen] > _otsu(values[seen]) for values in (one, two)]
        assert made.agreement == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum(), abs=0.02)
    assert cropped


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold: the level that maximizes the variance between the classes, by its definition."""
    gray = (values * 255).astype(int)
    levels, scores = np.arange(gray.min(), gray.max()), []
    for level in levels:
        low, high = gray[gray <= level], gray[gray > level]
        scores.append(len(low) * len(high) * (low.mean() - high.mean()) ** 2)
    return (levels[int(np.argmax(scores))] + 1) / 255 - 1e-9


@pytest.mark.parametrize("combine", ["mean", "rank_mean", "geometric", "agreement"])
def test_methods_of_one_network_in_two_atlases_give_the_labels_of_one_with_both(world: World, combine: str) -> None:
    """Bit by bit, although the other has its images in other shards, rows and order of targets."""
    joined = Atlas.open([f"a={world.path('first')}", f"b={world.path('alike')}"])
    whole = Atlas.open(world.path("all"))
    refine = Pamr(iterations=2) if combine == "mean" else None
    for target in ("label", "predicted"):
        shared = {"combine": combine, "refine": refine, "target": target}
        for name in whole.shard_names:
            mine = list(iter_labels(joined, name, policy("a:legrad", "b:attention", **shared)))
            others = list(iter_labels(whole, name, policy("legrad", "attention", **shared)))
            assert len(mine) == len(others) > 0
            for one, another in zip(mine, others, strict=True):
                assert one.sample == another.sample
                assert one.mask_rle == another.mask_rle is not None
                assert (one.area, one.boxes, one.agreement) == (another.area, another.boxes, another.agreement)
                assert np.array_equal(one.heatmap.values, another.heatmap.values)


def test_labels_name_all_that_they_were_made_from(world: World, joined: MapReader, tmp_path: Path) -> None:
    label(joined, policy("vit:legrad", "dino:rollout"), ["png", "wsol", "parquet"], str(tmp_path))
    runs = {name: Atlas.open(world.path(path)).run.run_hash for name, path in (("vit", "first"), ("dino", "other"))}
    about = LabelingSpec.read((tmp_path / "policy.json").read_bytes(), "policy.json")
    assert (about.networks, about.run) == (runs, runs["vit"])
    for path in (tmp_path / "commits").iterdir():
        commit = DerivedCommit.read(path.read_bytes(), path.name)
        assert (commit.atlas, commit.parts.keys()) == (runs["vit"], {f"dino:{runs['dino']}"})
    swapped = Atlas.open([f"dino={world.path('first')}", f"vit={world.path('other')}"])
    with pytest.raises(UsageError, match="holds something else"):
        label(swapped, policy("dino:legrad", "vit:rollout"), ["png"], str(tmp_path))


def test_labels_are_made_again_when_maps_of_the_other_change(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "alike", tmp_path / "other")
    urls = [f"vit={world.path('first')}", f"dino={tmp_path / 'other'}"]
    both, out = policy("vit:legrad", "dino:attention"), tmp_path / "labels"
    label(Atlas.open(urls), both, ["png"], str(out))
    before = {path.name: path.stat().st_mtime_ns for path in (out / "commits").iterdir()}
    commit = tmp_path / "other/commits/reversed-2.json"  # images 0, 1, 2, which are in the first shard
    content = commit.read_text().replace('"size"', '"size" ', 1)
    assert content != commit.read_text()
    label(Atlas.open(urls), both, ["png"], str(out))
    assert before == {path.name: path.stat().st_mtime_ns for path in (out / "commits").iterdir()}
    record = Atlas.open(str(tmp_path / "other")).record("reversed-2")
    changed = record.model_copy(update={"objects": (*record.objects, record.objects[0])})
    commit.write_bytes(changed.to_bytes())
    label(Atlas.open(urls), both, ["png"], str(out))
    after = {path.name: path.stat().st_mtime_ns for path in (out / "commits").iterdir()}
    assert [name for name in sorted(before) if before[name] != after[name]] == ["shards-0.json"]


def test_labels_are_made_again_when_another_gets_images_that_it_lacked(world: World, tmp_path: Path) -> None:
    write(world.folder / "few", IMAGES[:3])
    grows = world.run("grows", "few", methods=("attention",))
    urls, out = [f"a={world.path('first')}", f"b={grows}"], tmp_path / "labels"
    both = policy("a:legrad", "b:attention")
    made = label(Atlas.open(urls, subset=True), both, ["png"], str(out))
    assert made.counts == {LabelStatus.OK: 3, LabelStatus.NOT_IN_ALL: 9}
    write(tmp_path / "rest", *(IMAGES[n : n + 3] for n in (3, 6, 9)))
    append(grows, [f"{tmp_path}/rest/*.tar"], INLINE)
    made = label(Atlas.open(urls), both, ["png"], str(out))
    assert made.counts == {LabelStatus.OK: 12}


def test_a_part_of_either_of_two_computations_of_one_run_is_known(world: World, tmp_path: Path) -> None:
    """Their parts have one hash."""
    for name in "ab":
        shutil.copytree(world.folder / "first", tmp_path / name)
        extend(str(tmp_path / name), ["attention"], options=INLINE)
    urls, both = [f"{name}={tmp_path / name}" for name in "ab"], ["a:attention", "b:attention"]
    parts = Atlas.open(urls).parts_of("shards-0", both)
    assert len(parts) == 3
    (part,) = Atlas.open(str(tmp_path / "a")).parts
    runs = [Atlas.open(urls).run_of("shards-0", method) for method in (*both, "b:legrad", "b:random")]
    assert runs == [part.own.run_hash, part.own.run_hash, part.own.extends, ""]
    record = part.record("shards-0")
    changed = record.model_copy(update={"objects": (*record.objects, record.objects[0])})
    Path(part.objects.url, "commits/shards-0.json").write_bytes(changed.to_bytes())
    assert not Atlas.open(urls).has_parts("shards-0", parts)


def test_methods_that_were_added_can_be_used(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "alike", tmp_path / "other")
    extend(str(tmp_path / "other"), ["rollout"], options=INLINE)
    joined = Atlas.open([f"a={world.path('first')}", f"b={tmp_path / 'other'}"])
    label(joined, policy("a:legrad", "b:rollout"), ["png"], str(tmp_path / "labels"))
    other = Atlas.open(str(tmp_path / "other"))
    commit = DerivedCommit.read((tmp_path / "labels/commits/shards-0.json").read_bytes(), "")
    assert commit.parts.keys() == {f"b:{each.own.run_hash}" for each in (other, *other.parts)}


def test_networks_that_predict_different_classes_make_no_mask(world: World, joined: MapReader, tmp_path: Path) -> None:
    first, other = (
        {row["key"]: row["prediction"] for row in Atlas.open(world.path(name)).samples().to_pylist()}
        for name in ("first", "other")
    )
    differ = {key for key in first if first[key] != other[key]}
    assert 0 < len(differ) <= 12
    notes: list[str] = []
    made = label(
        joined, policy("vit:legrad", "dino:rollout", target="predicted"), ["png"], str(tmp_path), log=notes.append
    )
    assert made.counts.get(LabelStatus.OTHER_CLASS) == len(differ)
    assert [f"as predicted, of {len(differ)} images" in note for note in notes] == [True]
    rows = read_labels(str(tmp_path)).to_pylist()
    assert {row["key"] for row in rows if row["status"] == LabelStatus.OTHER_CLASS} == differ
    assert {row["label"] for row in rows if row["key"] in differ} == {None}


def refused(*urls: str) -> str:
    with pytest.raises(UsageError) as refusal:
        Atlas.open(list(urls))
    return str(refusal.value)


def test_images_that_not_all_have_are_refused_or_left_out(world: World, tmp_path: Path) -> None:
    changed = [("s0003.jpg", jpeg(99)), *IMAGES[3][1:]]
    write(world.folder / "fewer", [*IMAGES[:3], changed, *IMAGES[4:11], samples(1, 50), samples(1, 51)])
    urls = [f"a={world.path('first')}", f"b={world.run('fewer-atlas', 'fewer', methods=('attention',))}"]
    says = refused(*urls)
    assert "2 images with maps in" in says
    assert "such as s0003; 1 of them are other images under the same key there; leave them out with --subset" in says
    assert "3 images with maps in" in refused(*urls[::-1])
    joined = Atlas.open(urls, subset=True)
    assert [note.split(" images")[0] for note in joined.notes] == ["2", "3"]
    assert len(joined.dataset("b:attention")) == 10
    made = label(joined, policy("a:legrad", "b:attention"), ["png"], str(tmp_path))
    assert made.counts == {"not_in_all": 2, "ok": 10}
    rows = {row["key"]: row["status"] for row in read_labels(str(tmp_path)).to_pylist()}
    assert {key for key, status in rows.items() if status == "not_in_all"} == {"s0003", "s0011"}
    with pytest.raises(UsageError, match="has no map, its status is not_in_all"):
        joined.map("s0011", "b:attention")


def test_images_without_maps_in_both_need_no_counterpart(world: World, tmp_path: Path) -> None:
    broken = [("s0001.jpg", b"broken"), *IMAGES[1][1:]]
    for name in ("one", "two"):
        write(world.folder / name, [IMAGES[0], broken, IMAGES[2]])
    urls = [
        world.run(f"{name}-atlas", name, methods=(method,))
        for name, method in (("one", "legrad"), ("two", "attention"))
    ]
    joined = Atlas.open(urls)
    made = label(joined, policy("one-atlas:legrad", "two-atlas:attention"), ["png"], str(tmp_path))
    assert made.counts == {"ok": 2, "undecodable": 1}


def test_no_image_in_common_is_refused_with_both_readings(world: World) -> None:
    write(world.folder / "strange", [samples(1, number) for number in range(70, 73)])
    strange = world.run("strange-atlas", "strange", batch_size=2)
    says = refused(world.path("first"), strange)
    assert "no image is in both" in says
    assert "nor are they of one run: spec.batch_size is 4, not 2" in says


def test_a_key_and_image_that_is_there_twice_is_no_counterpart(world: World) -> None:
    write(world.folder / "twice", [*IMAGES], [IMAGES[4]])
    twice = world.run("twice-atlas", "twice", methods=("attention",))
    assert "1 images with maps in" in refused(f"a={world.path('first')}", f"b={twice}")
    joined = Atlas.open([f"a={world.path('first')}", f"b={twice}"], subset=True)
    assert len(joined.dataset("b:attention")) == 11


def test_other_labels_of_the_same_images_are_refused(world: World, tmp_path: Path) -> None:
    relabelled = [[image[0], (image[1][0], b"9"), image[2]] for image in IMAGES]
    write(world.folder / "relabelled", relabelled)
    urls = [f"a={world.path('first')}", f"b={world.run('relabelled-atlas', 'relabelled', methods=('attention',))}"]
    with pytest.raises(UsageError, match="11 images do not have the same label in all, such as s0000 of shards-0"):
        label(Atlas.open(urls), policy("a:legrad", "b:attention"), ["png"], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exif": "ignore"}, "spec.exif is apply in one and ignore in the other"),
        ({"key_separator": "last-dot"}, "spec.key_separator is first-dot in one and last-dot in the other"),
    ],
)
def test_keys_and_orientation_must_be_the_same(
    world: World, changes: dict[str, str], says: str, tmp_path: Path
) -> None:
    shards = (f"{world.folder}/shards/*.tar",)
    plan(world.spec.model_copy(update={"shards": shards} | changes), str(tmp_path / "other"))
    run(str(tmp_path / "other"), INLINE)
    assert says in refused(world.path("first"), str(tmp_path / "other"))


def test_other_classes_are_refused(world: World, tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=12).state_dict(), tmp_path / "twelve.safetensors")
    network = ModelSpec(name="test_vit", checkpoint=str(tmp_path / "twelve.safetensors"))
    shards = (f"{world.folder}/shards/*.tar",)
    plan(world.spec.model_copy(update={"shards": shards, "model": network}), str(tmp_path / "other"))
    run(str(tmp_path / "other"), INLINE)
    assert "have 10 classes in one and 12 in the other" in refused(world.path("first"), str(tmp_path / "other"))


def test_a_policy_names_methods_of_every_atlas_and_of_no_other(world: World, joined: MapReader, tmp_path: Path) -> None:
    for methods, fields, says in (
        (
            ("legrad",),
            {},
            "has no maps of 'legrad'; it has vit:legrad, dino:attention, dino:rollout",
        ),
        (("vit:rollout",), {}, "has no maps of 'vit:rollout'"),
        (("vit:legrad",), {}, "has no method of dino"),
        (("vit:legrad", "dino:rollout"), {"target": "top:1"}, "has no target 'top:1'"),
        (("vit:legrad", "dino:rollout"), {"refine": Pamr()}, "pamr refines on the input of one network"),
    ):
        with pytest.raises(UsageError) as refusal:
            label(joined, policy(*methods, **fields), ["png"], str(tmp_path))
        assert says in str(refusal.value)


def test_a_target_that_only_one_has_is_refused(world: World, tmp_path: Path) -> None:
    only = world.run("only-predicted", "shards", targets=("predicted",), methods=("attention",))
    joined = Atlas.open([f"a={world.path('first')}", f"b={only}"])
    with pytest.raises(UsageError, match=r"only-predicted: has no target 'label'"):
        label(joined, policy("a:legrad", "b:attention"), ["png"], str(tmp_path))


def test_a_threshold_is_calibrated_on_the_combined_maps(world: World, joined: MapReader, tmp_path: Path) -> None:
    boxes = "".join(f"s{number:04d},8,8,30,24\n" for number in range(12))
    (tmp_path / "boxes.csv").write_text(f"image_id,x0,y0,x1,y1\n{boxes}")
    calibrated = policy("vit:legrad", "dino:rollout", threshold=Threshold(kind="calibrated"))
    made = label(
        joined, calibrated, ["png"], str(tmp_path / "out"), CalibrationSource(read_truth(str(tmp_path / "boxes.csv")))
    )
    assert made.policy.threshold.value is not None
    assert made.calibration.count("run sha256:") == 2


def test_filters_are_of_the_first_network(world: World, joined: MapReader, tmp_path: Path) -> None:
    by_key = {row["key"]: row for row in Atlas.open(world.path("first")).samples().to_pylist()}
    label(joined, policy("vit:legrad", "dino:rollout", filter=LabelFilter(top1=True)), ["png"], str(tmp_path))
    for row in read_labels(str(tmp_path)).to_pylist():
        is_top1 = by_key[row["key"]]["prediction"] == by_key[row["key"]]["label"]
        assert (row["status"] == "not_top1") == (not is_top1)
        assert row["probability"] == by_key[row["key"]]["label_probability"]


def test_rows_are_compared_once_more_when_they_are_read(joined: MapReader) -> None:
    """They were matched by short hashes."""
    alone = joined.of_shard("shards-0")
    alone._rows = {"dino": {"shards-0": alone._rows["dino"]["shards-0"][::-1]}}
    with pytest.raises(RunFailedError, match="has been changed while it was read; run the command again"):
        alone.shard("shards-0")


def test_the_command_takes_networks(world: World, vitatlas, tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text("{name: both, methods: [first:legrad, other:rollout], threshold: {kind: otsu}}")
    both = [world.path("first"), world.path("other")]
    code, out, error = vitatlas("label", *both, "--policy", file, "--format", "png", "--out", tmp_path / "labels")
    assert (code, "ok" in out) == (0, True), error
    for command, *arguments in (
        ("annotate", "--out", tmp_path / "page"),
        ("audit", "--out", tmp_path / "audit"),
        ("label", "--from", tmp_path, "--out", tmp_path / "imported"),
    ):
        code, _, error = vitatlas(command, *both, *arguments)
        assert (code, "are not of one run: it has no attention" in error) == (2, True), error
    code, _, error = vitatlas("label", both[0], "--policy", file, "--subset", "--out", tmp_path / "x")
    assert (code, "--subset leaves out images that not all atlases have" in error) == (2, True)
    assert "with the methods first:legrad, other:attention, other:rollout" in vitatlas("status", *both)[1]


def test_commands_without_subset_say_what_is_not_in_all_or_why_they_refuse(
    world: World, vitatlas, tmp_path: Path
) -> None:
    write(tmp_path / "less", IMAGES[:3])
    plan(world.spec.model_copy(update={"shards": (f"{tmp_path}/less/*.tar",)}), str(tmp_path / "less.atlas"))
    run(str(tmp_path / "less.atlas"), INLINE)
    both = world.path("other"), tmp_path / "less.atlas"
    code, text, _ = vitatlas("status", *both)
    assert code == 0
    assert "         9 images with maps in" in text
    assert len(json.loads(vitatlas("status", *both, "--json")[1])["together"]["notes"]) == 1
    for command in ("audit", "annotate"):
        code, _, error = vitatlas(command, *both, "--out", tmp_path / "out")
        assert code == 2
        assert "are not of one run: " in error


def test_products_are_compared_with_all_networks(world: World, vitatlas, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "other", tmp_path / "other")
    both, labels = [f"vit={world.path('first')}", f"dino={tmp_path / 'other'}"], str(tmp_path / "labels")
    label(Atlas.open(both), policy("vit:legrad", "dino:rollout"), ["png"], labels)
    assert vitatlas("verify", *both, labels, "--recompute", 0)[0] == 0
    for others in (both[:1], [world.path("first"), both[1]], [both[0], f"dino={world.path('alike')}"]):
        code, out, _ = vitatlas("verify", *others, labels, "--recompute", 0)
        assert (code, "was made from other atlases than" in out) == (1, True), others
    other = Atlas.open(str(tmp_path / "other"))
    record = other.record("reversed-2")  # with images of the first shard
    changed = record.model_copy(update={"objects": (*record.objects, record.objects[0])})
    (tmp_path / "other/commits/reversed-2.json").write_bytes(changed.to_bytes())
    code, out, _ = vitatlas("verify", *both, labels, "--recompute", 0)
    assert code == 1
    assert "commits/shards-0.json: was made from maps of a part, or another atlas, that is not there" in out
    assert "commits/shards-1.json" not in out
    vitatlas("drop", tmp_path / "other", "--methods", "rollout")
    assert "was made from maps of dino:rollout, which were dropped" in vitatlas("verify", *both, labels)[1]


@pytest.mark.soak
def test_labels_are_the_same_in_several_processes(
    world: World, joined: MapReader, two_processes: None, tmp_path: Path
) -> None:
    both = policy("vit:legrad", "dino:rollout")
    label(joined, both, ["png"], str(tmp_path / "two"))
    with in_one_process():
        label(joined, both, ["png"], str(tmp_path / "one"))
    one, two = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert one == two
