"""A run in this process: what it finishes, what it sets aside, and that it goes on to the same bytes."""

import json
import struct
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import crash_after, encode, interrupted_at, jpeg, same_bytes, samples, write_tar

from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.run.worker import Worker
from pipeline.store import Atlas
from pipeline.store.verify import verify
from schemas.errors import RunFailedError, SpecMismatchError, UsageError
from schemas.layout import Flag
from schemas.run import RunSpec
from schemas.samples import SampleStatus


def test_every_sample_has_its_maps(finished: Path) -> None:
    atlas = Atlas.open(str(finished))
    samples = atlas.samples()
    assert samples["row"].to_pylist() == [*range(5), *range(7, 14), *range(14, 18)]
    assert set(samples["status"].to_pylist()) == {SampleStatus.OK}
    for method in atlas.methods:
        maps = atlas.maps(method).values
        assert np.isfinite(maps[samples["row"].to_numpy()]).all()
        assert np.isnan(maps[[5, 6, 18, 19, 20]]).all()


def test_two_runs_give_the_same_bytes(finished: Path, spec: RunSpec, tmp_path: Path) -> None:
    plan(spec, str(tmp_path / "again"))
    run(str(tmp_path / "again"), INLINE)
    same_bytes(finished, tmp_path / "again")


def crash_and_resume(out: Path, spec: RunSpec, finished: Path, k: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Crash at the k-th operation that changes something, start again, compare all bytes. Return if it crashed."""
    with crash_after(k, monkeypatch) as crash:
        plan(spec, str(out))
        run(str(out), INLINE)
    plan(spec, str(out))
    run(str(out), INLINE)
    same_bytes(finished, out)
    assert verify(Atlas.open(str(out))).faults == []
    return crash.happened


@pytest.mark.parametrize("k", [3, 25])
def test_a_crash_is_mended_by_the_same_command(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    assert crash_and_resume(tmp_path / "crash", spec, finished, k, monkeypatch)


@pytest.mark.soak
@pytest.mark.usefixtures("computed_once")
def test_a_crash_after_any_store_operation_is_mended_by_the_same_command(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = next(k for k in count(1) if not crash_and_resume(tmp_path / f"crash-{k}", spec, finished, k, monkeypatch))
    assert k > 45  # metadata of 3 methods, run.json, the lease, and 11 objects for each of 3 shards


def test_a_torn_object_without_commit_is_written_over(finished: Path, spec: RunSpec, tmp_path: Path) -> None:
    out = tmp_path / "torn"
    plan(spec, str(out))
    torn = out / "maps.zarr" / "legrad" / "c" / "1" / "0" / "0" / "0"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"half a shard")
    run(str(out), INLINE)
    same_bytes(finished, out)


def test_a_finished_run_is_left_alone(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Worker, "__init__", never)
    assert len(run(str(finished), INLINE).commits) == 3


def test_a_broken_tar_is_set_aside_and_done_when_it_is_mended(spec: RunSpec, tmp_path: Path) -> None:
    broken, out = tmp_path / "shards" / "part-0.tar", str(tmp_path / "atlas")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:5000])
    plan(spec, out)
    with pytest.raises(RunFailedError, match=r"1 of 3 shards could not be done:\n.*part-0.tar: it is truncated"):
        run(out, INLINE)
    assert list(Atlas.open(out).commits) == ["part-1", "part-2"]
    assert Atlas.open(out).quarantined() == {"part-0": f"{broken}: it is truncated"}
    broken.write_bytes(whole)  # only its good part was counted, but there is room for all of it
    assert run(out, INLINE).commits["part-0"].ok == 5
    assert Atlas.open(out).quarantined() == {}
    assert verify(Atlas.open(out)).faults == []


def test_a_tar_that_breaks_after_the_plan_is_set_aside_and_mended(
    finished: Path, spec: RunSpec, tmp_path: Path
) -> None:
    out, broken = tmp_path / "atlas", tmp_path / "shards" / "part-1.tar"
    plan(spec, str(out))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:6000])
    with pytest.raises(RunFailedError, match=r"part-1.tar: it is truncated"):
        run(str(out), INLINE)
    assert not list((out / "maps.zarr" / "legrad" / "c").glob("1"))
    broken.write_bytes(whole)
    run(str(out), INLINE)
    same_bytes(finished, out)


def test_bad_samples_are_rows_and_their_neighbours_keep_their_maps(
    finished: Path, spec: RunSpec, tmp_path: Path
) -> None:
    """One image of the second shard is replaced by junk: same shape of batch, same bytes for all others."""
    members = samples(7, 5)
    members[9] = (members[9][0], b"junk")
    write_tar(tmp_path / "shards" / "part-1.tar", members)
    out = tmp_path / "atlas"
    plan(spec, str(out))
    atlas, good = run(str(out), INLINE), Atlas.open(str(finished))
    assert atlas.commits["part-1"].statuses == {"ok": 6, "undecodable": 1}
    row = atlas.shard("part-1").samples.slice(3, 1).to_pylist()[0]
    assert (row["key"], row["row"], row["status"], row["width"]) == ("s0008", 10, "undecodable", None)
    assert "4 bytes" in row["error"]
    for method in atlas.methods:
        found, expected = atlas.maps(method).values, good.maps(method).values
        assert np.isnan(found[10]).all()
        others = [i for i in range(21) if i != 10]
        assert np.array_equal(found[others], expected[others], equal_nan=True)


def test_weights_that_changed_since_the_plan_are_refused(spec: RunSpec, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    path = tmp_path / "mine.safetensors"
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), path)
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"checkpoint": str(path)})})
    plan(spec, str(tmp_path / "atlas"))
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), path)
    with pytest.raises(SpecMismatchError, match=r"network was planned with other values .*: model.weights is 'sha256:"):
        run(str(tmp_path / "atlas"), INLINE)


def test_an_interrupt_stops_early_and_says_how_to_go_on(finished: Path, spec: RunSpec, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    with interrupted_at(1, f"resume with: vitatlas run {out}"):
        run(str(out), INLINE)
    assert list(Atlas.open(str(out)).commits) == ["part-0"]
    run(str(out), INLINE)
    same_bytes(finished, out)


def test_labels_are_not_needed_for_predicted_targets(spec: RunSpec, tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "bare.tar", [("a.jpg", jpeg()), ("b.jpg", jpeg(1)), ("b.cls", b"9999")])
    spec = spec.model_copy(update={"shards": (str(shard),), "targets": ("predicted",)})
    plan(spec, str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    rows = atlas.samples(["status", "label", "label_rank", "prediction"]).to_pylist()
    assert [(row["status"], row["label"], row["label_rank"]) for row in rows] == [
        ("ok", None, None),
        ("ok", 9999, None),
    ]
    assert atlas.maps("legrad").shape[1] == 1


def test_a_map_that_is_not_finite_is_flagged_and_counted(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.explain.attribution.attention import RawAttention

    compute = RawAttention.compute

    def poisoned(self: RawAttention, trace, targets):
        maps = compute(self, trace, targets).clone()
        maps[[key == "s0002" for key in trace.keys]] = float("nan")
        maps[[key == "s0003" for key in trace.keys]] = 0.5
        return maps

    monkeypatch.setattr(RawAttention, "compute", poisoned)
    plan(spec, str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    commit = atlas.commits["part-0"]
    assert commit.statuses == {"ok": 5}
    assert commit.degenerate == {"attention": 4}
    part = atlas.shard("part-0")
    assert part.flags("attention").tolist() == [0, 0, 2, 1, 0]
    assert atlas.flag("s0002", "attention", "predicted") == Flag.NOT_FINITE
    assert not part.maps("attention")[2:4].any()
    assert part.ranges("attention")[2:4].tolist() == [[0, 0], [0.5, 0.5]]
    assert verify(Atlas.open(str(tmp_path / "atlas"))).faults == []


def test_a_network_that_is_not_finite_is_a_row_with_its_status(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.explain.explainer import Explainer

    maps_of = Explainer.maps

    def poisoned(self: Explainer, images, targets, keys):
        maps = maps_of(self, images, targets, keys)
        maps.logits[[key == "s0002" for key in keys]] = float("nan")
        return maps

    monkeypatch.setattr(Explainer, "maps", poisoned)
    plan(spec, str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    assert atlas.commits["part-0"].statuses == {"not_finite": 1, "ok": 4}
    row = atlas.samples().to_pylist()[2]
    assert (row["status"], row["error"]) == ("not_finite", "the logits are NaN or infinite")
    assert np.isnan(atlas.maps("attention")[2].values).all()
    assert verify(Atlas.open(str(tmp_path / "atlas"))).faults == []


def test_an_atlas_without_any_map_is_a_failure(spec: RunSpec, tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "junk.tar", [("a.jpg", b"junk"), ("a.cls", b"1")])
    plan(spec.model_copy(update={"shards": (str(shard),)}), str(tmp_path / "atlas"))
    with pytest.raises(
        RunFailedError, match=r"no image of .* has maps; the first, a in junk: 4 bytes that are no JPEG"
    ):
        run(str(tmp_path / "atlas"), INLINE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"image_key": ("webp",)},
            r"a in one: no member has the extension webp of --image-key; there are: a\.cls, a\.jpg",
        ),
        (
            {"targets": ("label",)},
            r"a in one: no \.cls member; there are: a\.jpg, a\.txt; add one, or plan with --targets predicted",
        ),
    ],
)
def test_an_atlas_without_any_map_says_what_the_first_sample_lacks(
    spec: RunSpec, changes: dict[str, object], says: str, tmp_path: Path
) -> None:
    other = ("a.cls", b"1") if "image_key" in changes else ("a.txt", b"words")
    shard = write_tar(tmp_path / "one.tar", [("a.jpg", jpeg()), other])
    plan(spec.model_copy(update={"shards": (str(shard),), **changes}), str(tmp_path / "atlas"))
    with pytest.raises(RunFailedError, match=f"no image of .* has maps; the first, {says}"):
        run(str(tmp_path / "atlas"), INLINE)


def test_memory_is_not_shared_with_actors(spec: RunSpec) -> None:
    plan(spec, "memory://unshared")
    with pytest.raises(UsageError, match="use --executor inline"):
        run("memory://unshared")
    assert len(run("memory://unshared", INLINE).commits) == 3


def test_a_rotated_picture_with_strange_exif_is_a_picture(spec: RunSpec, tmp_path: Path) -> None:
    """Its resolution is text: libraries that write the EXIF again to turn the picture fail on it."""
    entries = struct.pack("<HHHIHH", 2, 0x0112, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x011A, 2, 3, b"72\0\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries + struct.pack("<I", 0)
    image = encode(Image.new("RGB", (30, 20)), "JPEG", exif=exif)
    shard = write_tar(tmp_path / "exif.tar", [("a.jpg", image), ("a.cls", b"1")])
    plan(spec.model_copy(update={"shards": (str(shard),)}), str(tmp_path / "atlas"))
    row = run(str(tmp_path / "atlas"), INLINE).samples().to_pylist()[0]
    assert (row["status"], row["width"], row["height"], row["orientation"]) == ("ok", 20, 30, 6)


def test_the_commit_says_how_long_each_stage_took(finished: Path) -> None:
    record = json.loads((finished / "commits" / "part-0.json").read_text())
    assert {"read", "forward", "attention", "legrad", "random", "collect", "total"} <= set(record["seconds"])
    assert sum(v for stage, v in record["seconds"].items() if stage != "total") <= record["seconds"]["total"] + 0.01


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_records_how_far_it_moves_the_maps(spec: RunSpec, tmp_path: Path, precision: str) -> None:
    half = spec.model_copy(update={"precision": precision, "methods": (*spec.methods, "generic_attention")})
    plan(half, str(tmp_path / "atlas"))
    commits = run(str(tmp_path / "atlas"), INLINE).commits
    for commit in commits.values():
        assert set(commit.drift) == {"attention", "legrad", "random", "generic_attention"}
        assert commit.drift["random"] == 0  # no network in it
        assert 0 < commit.drift["legrad"] < 0.05
    plan(spec, str(tmp_path / "full"))
    assert not any(commit.drift for commit in run(str(tmp_path / "full"), INLINE).commits.values())
