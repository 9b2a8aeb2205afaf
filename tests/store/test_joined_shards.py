"""Atlases of parts of a list of shards are read as one that was planned with all of them, bit by bit."""

import json
import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import FAST, in_one_process, samples, write_tar

from pipeline.annotate import write_page
from pipeline.audit.audit_atlas import AuditOptions, audit_atlas
from pipeline.audit.publication.verify_audit import verify_audit
from pipeline.label import label, read_labels
from pipeline.run import INLINE, run
from pipeline.run.extend import extend
from pipeline.run.plan import plan
from pipeline.score import open_source, score
from pipeline.store import Atlas, MapReader
from pipeline.truth import read_truth
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec

SIZES = (5, 7, 4, 3)
POLICY = Policy(name="otsu", methods=("legrad", "attention"), threshold=Threshold(kind="otsu"))


@dataclass(frozen=True)
class World:
    """Four shards, an atlas of all, and two of parts of the list, on machines with other paths of the weights."""

    folder: Path
    spec: RunSpec

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name)

    def plan(self, name: str, *shards: int, **changes: object) -> str:
        """Plan and run an atlas of some shards."""
        out, patterns = str(self.folder / name), tuple(f"{self.folder}/shards/part-{index}.tar" for index in shards)
        plan(self.spec.model_copy(update={"shards": patterns} | changes), out)
        run(out, INLINE)
        return out


@pytest.fixture(scope="module")
def world(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Not to be changed."""
    folder, count = tmp_path_factory.mktemp("joined"), 0
    for index, size in enumerate(SIZES):
        write_tar(folder / "shards" / f"part-{index}.tar", samples(size, count))
        count += size
    spec = RunSpec(shards=("",), model=checkpoint, methods=FAST, batch_size=4)
    world = World(folder, spec)
    shutil.copy(str(checkpoint.checkpoint), folder / "copied.safetensors")
    with in_one_process():
        world.plan("whole", 0, 1, 2, 3)
        world.plan("first", 0)
        copied = checkpoint.model_copy(update={"checkpoint": f"{folder}/copied.safetensors"})
        world.plan("second", 1, 2, 3, model=copied)
    return world


@pytest.fixture(scope="module", autouse=True)
def one_process():
    with in_one_process():
        yield


@pytest.fixture
def joined(world: World) -> MapReader:
    return Atlas.open([world.first, world.second])


def test_rows_tables_and_maps_are_those_of_one_plan(world: World, joined: MapReader) -> None:
    whole = Atlas.open(world.whole)
    assert joined.run.slot == whole.run.slot != Atlas.open(world.first).run.slot
    assert joined.run.model_copy(update={"spec": whole.run.spec}) == whole.run
    assert joined.run.run_hash == whole.run.run_hash
    assert joined.shard_names == whole.shard_names
    assert joined.samples().equals(whole.samples())
    assert joined.samples_with_maps(["row", "key"], "label").equals(whole.samples_with_maps(["row", "key"], "label"))
    for name in whole.shard_names:
        one, other = joined.shard(name), whole.shard(name)
        assert one.samples.equals(other.samples)
        assert one.planned == other.planned
        for method in FAST:
            for read in ("maps", "ranges", "flags"):
                assert (
                    getattr(one, read)(method, "predicted").tobytes()
                    == getattr(other, read)(method, "predicted").tobytes()
                )
    for method in FAST:
        mine, others = joined.dataset(method), whole.dataset(method)
        for (values, row), (expected, its_row) in zip(
            mine.__getitems__(range(19)), others.__getitems__(range(19)), strict=True
        ):
            assert row == its_row
            assert np.array_equal(values, expected)
    for key in ("s0000", "s0018"):
        assert np.array_equal(joined.raw(key, "legrad"), whole.raw(key, "legrad"))
        assert joined.flag(key, "legrad") == whole.flag(key, "legrad")


def test_a_copy_in_another_process_reads_the_same(joined: MapReader) -> None:
    copy = pickle.loads(pickle.dumps(joined))
    assert copy.run == joined.run
    assert copy.samples().equals(joined.samples())


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_labels_are_those_of_one_plan_byte_for_byte(world: World, joined: MapReader, tmp_path: Path) -> None:
    for name, atlas in (("joined", joined), ("whole", Atlas.open(world.whole))):
        label(atlas, POLICY, ["png", "coco", "voc", "parquet"], str(tmp_path / name))
    mine, others = everything(tmp_path / "joined"), everything(tmp_path / "whole")
    assert mine.keys() == others.keys()
    differ = {name for name in mine if mine[name] != others[name]}
    assert {name.split("/")[0] for name in differ} == {"commits", "labels", "product.json"}  # which name their parents
    tables = [read_labels(str(tmp_path / name)).drop_columns(["parent"]) for name in ("joined", "whole")]
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows == sum(SIZES)


def test_each_shard_of_a_product_names_its_atlas(world: World, joined: MapReader, tmp_path: Path) -> None:
    label(joined, POLICY, ["png"], str(tmp_path))
    commits = {path.stem: DerivedCommit.read(path.read_bytes(), path.name) for path in (tmp_path / "commits").iterdir()}
    first, second = (Atlas.open(url).run.run_hash for url in (world.first, world.second))
    assert {name: commit.atlas for name, commit in commits.items()} == {
        "part-0": first, "part-1": second, "part-2": second, "part-3": second,
    }  # fmt: skip


def test_scores_are_those_of_one_plan(world: World, joined: MapReader, tmp_path: Path) -> None:
    truth_file = tmp_path / "boxes.csv"
    lines = [f"s{number:04d},3,4,20,{18 + number % 7}" for number in range(sum(SIZES))]
    truth_file.write_text("\n".join(["image_id,x0,y0,x1,y1", *lines]))
    truth = read_truth(str(truth_file))
    tables = {
        name: score([open_source(atlas, truth, "same")], truth, out=str(tmp_path / name))
        for name, atlas in (("joined", joined), ("whole", Atlas.open(world.whole)))
    }
    assert tables["joined"].equals(tables["whole"])
    mine, others = everything(tmp_path / "joined"), everything(tmp_path / "whole")
    differ = {name.split("/")[-2] for name in mine if mine[name] != others[name] and "/" in name}
    assert differ == {"commits"}
    with pytest.raises(UsageError, match="need a folder for the results"):
        score(joined, truth)


def test_a_page_to_annotate_is_that_of_one_plan(world: World, joined: MapReader, tmp_path: Path) -> None:
    for name, atlas in (("joined", joined), ("whole", Atlas.open(world.whole))):
        write_page(atlas, str(tmp_path / name), 5, "disagreement")
    assert everything(tmp_path / "joined") == everything(tmp_path / "whole")


def refused(*urls: str) -> str:
    with pytest.raises(UsageError) as refusal:
        Atlas.open(list(urls))
    return str(refusal.value)


def test_shards_that_are_in_both_are_refused(world: World, tmp_path: Path) -> None:
    again = world.plan("again", 0, 1)
    says = r"part-1: is a shard of .*again and, as part-1 \(.*\), of .*second"
    assert re.search(says, refused(f"x={world.second}", f"x={again}"))
    says = "they are of one run, but part-1 is a shard of both, so they are not read as parts of one list"
    assert says in refused(world.second, again)
    assert "part-1: is a shard of" in refused(world.second, world.second)
    shutil.copy(f"{world.folder}/shards/part-0.tar", tmp_path / "renamed.tar")
    plan(world.spec.model_copy(update={"shards": (f"{tmp_path}/renamed.tar",)}), str(tmp_path / "atlas"))
    assert "renamed: is a shard of" in refused(world.first, str(tmp_path / "atlas"))
    write_tar(tmp_path / "PART-0.tar", samples(2, 90))
    plan(world.spec.model_copy(update={"shards": (f"{tmp_path}/PART-0.tar",)}), str(tmp_path / "upper"))
    assert "PART-0: is a shard of" in refused(world.first, str(tmp_path / "upper"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 2}, "spec.batch_size is 4, not 2"),
        ({"geometry": "crop"}, "spec.geometry is 'squash', not 'crop'"),
        ({"targets": ("label",)}, "spec.targets is"),
        ({"seed": 1}, "spec.seed is 0, not 1"),
        ({"methods": (*FAST, "rollout")}, "it has no rollout"),
        ({"methods": FAST[:2]}, "only it has random"),
        ({"methods": ("attention", "legrad:layers=last2", "random")}, "it has no legrad_last2; only it has legrad"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_runs_that_differ_are_refused_with_the_field(
    world: World, changes: dict[str, object], says: str, tmp_path: Path
) -> None:
    spec = world.spec.model_copy(update={"shards": (f"{world.folder}/shards/part-3.tar",)} | changes)
    plan(spec, str(tmp_path / "other"))
    assert says in refused(world.first, str(tmp_path / "other"))


def test_other_weights_are_refused(world: World, tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(2)
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), tmp_path / "other.safetensors")
    model = world.spec.model.model_copy(update={"checkpoint": str(tmp_path / "other.safetensors")})
    shards = (f"{world.folder}/shards/part-3.tar",)
    plan(world.spec.model_copy(update={"shards": shards, "model": model}), str(tmp_path / "other"))
    assert "model.weights is 'sha256:" in refused(world.first, str(tmp_path / "other"))


def test_methods_may_have_been_added_to_some(world: World, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(world.folder / name, tmp_path / name)
    extend(str(tmp_path / "first"), ["rollout"], options=INLINE)
    urls = [str(tmp_path / name) for name in ("first", "second")]
    assert "only it has rollout" in refused(*urls)
    before = Atlas.open([world.first, world.second]).run.run_hash
    extend(urls[1], ["rollout"], options=INLINE)
    both = Atlas.open(urls)
    assert both.methods == (*FAST, "rollout")
    assert both.run.run_hash == before  # so products stay valid
    label(both, POLICY.model_copy(update={"methods": ("rollout",)}), ["png"], str(tmp_path / "labels"))
    commit = json.loads((tmp_path / "labels/commits/part-1.json").read_text())
    assert commit["parts"].keys() == {Atlas.open(urls[1]).parts[0].own.run_hash}


def test_a_part_is_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "first", tmp_path / "first")
    extend(str(tmp_path / "first"), ["rollout"], options=INLINE)
    (part,) = Atlas.open(str(tmp_path / "first")).parts
    assert "is a part of an atlas; name the atlas that it extends" in refused(part.objects.url, world.second)


def test_a_gap_between_the_lists_is_named(world: World) -> None:
    assert Atlas.open([world.first, world.second]).gaps == ()
    assert Atlas.open([world.first, world.plan("last", 3)]).gaps == ("part-1 to part-2",)
    assert Atlas.open([world.plan("even", 0, 2), world.plan("odd", 1, 3)]).gaps == ()
    assert Atlas.open([world.even]).gaps == ()  # it was planned like this


def test_commands_take_several(world: World, vitatlas, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text("{name: half, methods: [legrad], threshold: {kind: fixed, value: 0.5}}")
    both = [world.first, world.second]
    code, _, error = vitatlas("label", *both, "--policy", policy)
    assert (code, "belongs to no one of them; name a folder with --out DIR" in error) == (2, True)
    code, out, error = vitatlas("label", *both, "--policy", policy, "--format", "png", "--out", tmp_path / "labels")
    assert code == 0, error
    last = world.plan("last", 3)
    code, _, error = vitatlas("label", world.first, last, "--policy", policy, "--out", tmp_path / "gap")
    assert (code, "none has the shards part-1 to part-2" in error) == (2, True)
    code, _, error = vitatlas("label", world.first, last, "--policy", policy, "--out", tmp_path / "gap", "--partial")
    assert (code, "no atlas has the shards part-1 to part-2" in error) == (0, True)
    code, _, error = vitatlas("annotate", *both, "--images", 3, "--out", tmp_path / "page")
    assert code == 0, error
    truth = tmp_path / "boxes.csv"
    truth.write_text("image_id,x0,y0,x1,y1\n" + "".join(f"s{number:04d},3,4,20,18\n" for number in range(sum(SIZES))))
    code, out, error = vitatlas("score", *both, "--truth", truth, "--out", tmp_path / "scores", "--methods", "legrad")
    assert (code, "19 images" in out) == (0, True), error
    assert "name a folder with --out DIR" in vitatlas("score", *both, "--truth", truth)[2]
    assert "together 4 of 4 shards, 19 images" in vitatlas("status", *both)[1]
    together = json.loads(vitatlas("status", *both, "--json")[1])["together"]
    assert together["images"] == {"planned": 19}


def test_products_are_compared_with_the_atlases_that_are_named(world: World, vitatlas, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(world.folder / name, tmp_path / name)
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    labels = str(tmp_path / "labels")
    label(Atlas.open([first, second]), POLICY, ["png"], labels)
    code, out, error = vitatlas("verify", first, second, labels, "--recompute", 1)
    assert (code, out.count("1 maps were recomputed") + out.count("6 maps were recomputed")) == (0, 2), error + out
    found = json.loads(vitatlas("verify", first, second, labels, "--recompute", 0, "--json")[1])
    assert [each["faults"] for each in (*found["atlases"], *found["products"])] == [[], [], []]
    assert vitatlas("verify", labels)[0] == 0  # from its files alone
    for others in ([second, first], [first], [second], [world.whole]):
        code, out, _ = vitatlas("verify", *others, labels, "--recompute", 0)
        assert (code, "was made from other atlases than" in out) == (1, others != [world.whole]), others
    record = Atlas.open(second).record("part-2")
    changed = record.model_copy(update={"objects": (*record.objects, record.objects[0])})
    (tmp_path / "second/commits/part-2.json").write_bytes(changed.to_bytes())
    code, out, _ = vitatlas("verify", first, second, labels, "--recompute", 0)
    assert (code, "commits/part-2.json: was made from other maps than the atlas has now" in out) == (1, True)


@pytest.mark.soak
def test_an_audit_is_that_of_one_plan(world: World, joined: MapReader, tmp_path: Path) -> None:
    options = AuditOptions(faithfulness_images=2, sanity_images=0, recomputed_images=3, exports=("quantus",))
    for name, atlas in (("joined", joined), ("whole", Atlas.open(world.whole))):
        audit_atlas(atlas, str(tmp_path / name), methods=["legrad", "attention"], audit_options=options)
        assert list(verify_audit(str(tmp_path / name))) == []
    mine, others = everything(tmp_path / "joined"), everything(tmp_path / "whole")
    differ = {name for name in mine if mine[name] != others.get(name)}
    parents = {"lineage.parquet", "manifest.json", "README.md", "croissant.json"}  # which name hashes, or the atlas
    parents |= {name for name in mine if "commits/" in name or name.endswith("product.json")}
    assert {name for name in differ - parents if not name.startswith("report/")} == set()
    assert mine.keys() == others.keys()
    rows = pq.read_table(tmp_path / "joined/lineage.parquet").to_pylist()
    maps = {row["shard"]: row["settings_hash"] for row in rows if row["product"] == "maps"}
    first, second = (Atlas.open(url).run.run_hash for url in (world.first, world.second))
    assert maps == {"part-0": first, "part-1": second, "part-2": second, "part-3": second}
    with pytest.raises(UsageError, match="their audit belongs to no one of them; name a folder with --out DIR"):
        audit_atlas(joined)
