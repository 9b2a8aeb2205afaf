"""Records of strangers: whatever stands in them, a command ends with a sentence, and prints nothing but text."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from security.hostile import TEXT, VALUES, call, changed, paths, replaced, value_at
from support import FAST, build_once, examples, in_one_process, samples, write_tar

from pipeline.demo.train_model import MODEL
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import lease
from pipeline.store.parquet import from_parquet, to_parquet
from schemas.base import sha256
from schemas.commits import LeaseRecord, QuarantineRecord
from schemas.errors import UsageError
from schemas.run import ModelSpec, RunSpec
from schemas.run_record import RunRecord

POLICY = {
    "name": "a", "methods": ["legrad", "attention"], "target": "label", "combine": "mean",
    "threshold": {"kind": "otsu", "scale": 1.0}, "postprocess": {"keep": "largest", "min_area": 0.01},
}  # fmt: skip
LEASE = LeaseRecord(
    holder="a", host="elsewhere", pid=7, since="2026-01-01T00:00:00+00:00", heartbeat=3, in_progress=("part-1",)
)
QUARANTINED = QuarantineRecord(shard="part-1", reason="it is truncated", finished="2026-01-01T00:00:00+00:00")


@pytest.fixture(scope="session")
def published(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards, truth, a policy, and an atlas with labels, scores and an audit; not to be changed."""

    def publish(folder: Path) -> None:
        for index in range(2):
            write_tar(folder / f"part-{index}.tar", samples(4, 4 * index))
        spec = RunSpec(shards=(f"{folder}/part-{{0..1}}.tar",), model=checkpoint, methods=FAST, batch_size=4)
        plan(spec, f"{folder}/atlas")
        run(f"{folder}/atlas", INLINE)
        (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
        boxes = [f"s{number:04d},5,5,20,20" for number in range(8)]
        (folder / "boxes.csv").write_text("\n".join(["image_id,x0,y0,x1,y1", *boxes]))
        with in_one_process():
            for command in (label_command(folder), score_command(folder), audit_command(folder)):
                assert call(*command)[0] == 0

    return build_once(tmp_path_factory, "hostile", publish)


def label_command(folder: Path) -> list[object]:
    return ["label", folder / "atlas", "--policy", folder / "policy.yaml", "--format", "png,coco,voc"]


def score_command(folder: Path) -> list[object]:
    return ["score", folder / "atlas", "--truth", folder / "boxes.csv", "--out", folder / "atlas" / "scores" / "a"]


def audit_command(folder: Path) -> list[object]:
    return ["audit", folder / "atlas", "--maps-only"]


def commands(folder: Path) -> list[list[object]]:
    """Every quick command that reads an atlas."""
    atlas = folder / "atlas"
    return [
        ["status", atlas],
        ["status", atlas, "--json"],
        ["verify", atlas, "--recompute", 0],
        ["run", atlas, "--executor", "inline"],
        label_command(folder),
        score_command(folder),
        ["audit", "--check", atlas / "audit" / "label"],
    ]


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    """Nobody waits for a lease that nobody holds, and nothing is done in other processes."""
    with pytest.MonkeyPatch.context() as patched, in_one_process():
        patched.setattr(lease, "HEARTBEAT", 0.02)
        patched.setattr(lease, "TIMEOUT", 0.02)
        yield


RECORDS = [
    "run.json", "lease.json", "quarantined/part-1.json", "commits/part-0.json", "maps.zarr/zarr.json",
    "maps.zarr/legrad/zarr.json", "labels/a/policy.json", "labels/a/summary.json", "labels/a/commits/part-0.json",
    "labels/a/coco/shards/part-0.json", "scores/a/about.json", "scores/a/commits/part-0.json",
    "audit/label/manifest.json", "audit/label/about.json", "audit/label/environment.json",
]  # fmt: skip


def content_of(published: Path, name: str) -> bytes:
    strangers = {"lease.json": LEASE.to_bytes(), "quarantined/part-1.json": QUARANTINED.to_bytes()}
    return strangers.get(name) or (published / "atlas" / name).read_bytes()


def with_hashes(content: bytes) -> bytes:
    """A changed ``run.json`` with the hashes of what it says now, as a stranger writes it; as it is, if it is none."""
    try:
        return RunRecord.read(content, "run.json").sealed().to_bytes()
    except UsageError:
        return content


def copied(published: Path, folder: Path, name: str, content: bytes) -> Path:
    """A copy of what is published with another content of one object."""
    copy = Path(shutil.copytree(published, folder / "copy"))
    file = copy / "atlas" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    if name.startswith("quarantined"):
        (copy / "atlas" / "commits" / "part-1.json").unlink()
    return copy


@examples(25)
@given(st.data())
def test_no_record_of_an_atlas_gives_a_traceback_or_moves_the_cursor(published: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(RECORDS))
    content = data.draw(changed(content_of(published, name)))
    if name == "run.json" and data.draw(st.booleans()):
        content = with_hashes(content)
    with TemporaryDirectory() as folder:
        copy = copied(published, Path(folder), name, content)
        call(*data.draw(st.sampled_from(commands(copy))))


STRANGE = [(name, command) for name in ("lease.json", "quarantined/part-1.json") for command in (0, 2, 3)]


@pytest.mark.parametrize(("name", "command"), STRANGE)
def test_text_in_any_field_is_printed_as_text(published: Path, tmp_path: Path, name: str, command: int) -> None:
    content = json.loads(content_of(published, name))
    copy = copied(published, tmp_path, name, b"")
    for path in paths(content):
        if isinstance(value_at(content, path), str):
            (copy / "atlas" / name).parent.mkdir(exist_ok=True)
            (copy / "atlas" / name).write_text(json.dumps(replaced(content, path, TEXT)))
            call(*commands(copy)[command])


def with_soak(first: Sequence[tuple[Any, ...]], pairs: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Values of two parameters: the first ones for ``make test``, the other pairs for ``make soak``."""
    return [*first, *(pytest.param(*pair, marks=pytest.mark.soak) for pair in pairs if pair not in first)]


TEXT_COLUMNS = ("key", "member", "error", "status", "shard")
TEXT_READ = [("key", command) for command in range(7)] + [(column, 4) for column in TEXT_COLUMNS[1:]]


@pytest.mark.parametrize(
    ("column", "command"),
    with_soak(TEXT_READ, product(TEXT_COLUMNS, range(7))),
)
def test_text_in_a_sample_table_is_printed_as_text(published: Path, tmp_path: Path, column: str, command: int) -> None:
    """As a stranger writes it, with the right checksum in the commit."""
    copy = Path(shutil.copytree(published, tmp_path / "copy"))
    name, atlas = "samples/part-0.parquet", copy / "atlas"
    table = from_parquet((published / "atlas" / name).read_bytes())
    index = table.schema.get_field_index(column)
    strange = pa.array([f"{TEXT}{row}" for row in range(len(table))]).cast(table.schema.field(index).type)
    statuses = pa.array(["undecodable"] * len(table)).cast(table.schema.field("status").type)
    table = table.set_column(table.schema.get_field_index("status"), "status", statuses)
    table = table.set_column(index, column, strange)
    data = to_parquet(table)
    (atlas / name).write_bytes(data)
    commit = json.loads((published / "atlas" / "commits" / "part-0.json").read_text())
    for entry in commit["objects"]:
        if entry["path"] == name:
            entry |= {"size": len(data), "sha256": sha256(data)}
    (atlas / "commits" / "part-0.json").write_text(json.dumps(commit))
    call(*commands(copy)[command])


@pytest.mark.parametrize("command", range(6))
@pytest.mark.parametrize("name", ["run.json", "commits/part-0.json", "lease.json", "quarantined/part-1.json"])
def test_a_record_of_brackets_is_a_sentence(published: Path, tmp_path: Path, name: str, command: int) -> None:
    copy = copied(published, tmp_path, name, b"[" * 200_000)
    code, text = call(*commands(copy)[command])
    if name in ("run.json", "commits/part-0.json"):
        assert (code != 0, name in text) == (True, True)


SLOTS = (10**12, 0, 1, -4, 2**63, 5)
SLOTS_READ = [(slot, 0) for slot in SLOTS] + [(10**12, 2), (0, 3), (5, 4), (1, 5)]


@pytest.mark.parametrize(
    ("slot", "command"),
    with_soak(SLOTS_READ, product(SLOTS, (2, 3, 4, 5))),
)
def test_a_slot_that_the_shards_do_not_give_is_refused(
    published: Path, tmp_path: Path, slot: int, command: int
) -> None:
    content = json.loads((published / "atlas" / "run.json").read_text()) | {"slot": slot}
    changed_alone = json.dumps(content).encode()
    for number, data in enumerate([changed_alone, with_hashes(changed_alone)]):
        copy = copied(published, tmp_path / str(number), "run.json", data)
        code, text = call(*commands(copy)[command])
        assert (code in (1, 2), "slot" in text, len(text.splitlines())) == (True, True, 1)


@pytest.mark.parametrize("since", ["", "yesterday", "2026-01-01T00:00:00", "9" * 400, TEXT])
def test_a_lease_since_no_time_is_no_lease_of_a_run(published: Path, tmp_path: Path, since: str) -> None:
    content = json.loads(LEASE.to_bytes()) | {"since": since}
    copy = copied(published, tmp_path, "lease.json", json.dumps(content).encode())
    for command in (["status", copy / "atlas", "--watch", "--interval", "0.1"], *commands(copy)[:4]):
        assert call(*command)[0] == 0


def mutated(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    path = draw(st.sampled_from([path for path in paths(document) if path]))
    return replaced(document, path, draw(st.sampled_from([value for value in VALUES if value != "\ud800"])))


@examples(12)
@given(st.data())
def test_no_policy_or_spec_gives_a_traceback(published: Path, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(published, Path(folder) / "copy"))
        if data.draw(st.booleans()):
            policy = mutated(data.draw, POLICY)
            (copy / "policy.yaml").write_text(yaml.safe_dump(policy, allow_unicode=True))
            call(*label_command(copy), "--out", copy / "masks")
        else:
            spec = mutated(data.draw, json.loads((copy / "atlas" / "run.json").read_text())["spec"])
            (copy / "spec.yaml").write_text(yaml.safe_dump(spec, allow_unicode=True))
            call("plan", "--spec", copy / "spec.yaml", "--out", copy / "planned")


SMALL = [value for value in VALUES if not isinstance(value, int | float) or value in (0, 1, 3, -0.5)]
"""Without networks that no memory holds."""


@examples(6)
@given(st.data())
def test_no_model_folder_gives_a_traceback(published: Path, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        model = Path(shutil.copytree(MODEL, Path(folder) / "model"))
        (model / "config.json").write_bytes(data.draw(changed((model / "config.json").read_bytes(), SMALL)))
        given_model = ["--model", f"local-dir:{model}", "--pretrained", "--methods", "attention"]
        call("plan", published / "part-0.tar", "--out", f"{folder}/atlas", *given_model)
