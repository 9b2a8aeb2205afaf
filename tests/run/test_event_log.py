"""A line of JSON for each attempt at a shard, with the same fields whatever became of it."""

import json
from pathlib import Path

import pytest

from pipeline.run import ExecutionOptions, run
from pipeline.run.plan import plan
from pipeline.run.worker import Worker
from pipeline.store import Atlas
from schemas.errors import RunFailedError
from schemas.run import RunSpec

FIELDS = [
    "time", "event", "outcome", "shard", "shard_index", "attempt",
    "host", "rows", "ok", "failed", "bytes", "seconds", "reason",
]  # fmt: skip


def lines(text: str) -> list[dict]:
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert all(list(line) == FIELDS for line in found)
    return found


def test_done_tried_again_and_set_aside(spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shards" / "part-0.tar").write_bytes(b"junk" * 1000)
    process, failed = Worker.process, []

    def once(self: Worker, shard_index: int, attempt: int = 1):
        if shard_index == 1 and not failed:
            failed.append(shard_index)
            raise OSError("s3://bucket?token=abcd: timed out\nwith a second line")
        return process(self, shard_index, attempt)

    monkeypatch.setattr(Worker, "process", once)
    plan(spec, str(tmp_path / "atlas"))
    log = tmp_path / "log.jsonl"
    with pytest.raises(RunFailedError, match=f"resume with: vitatlas run .* --log {log}"):
        run(str(tmp_path / "atlas"), ExecutionOptions("inline", log=str(log)))
    found = lines(log.read_text())
    assert [(line["shard"], line["outcome"], line["attempt"]) for line in found] == [
        ("part-0", "quarantined", 1),
        ("part-1", "retrying", 1),
        ("part-2", "committed", 1),
        ("part-1", "committed", 2),
    ]
    assert "abcd" not in log.read_text()
    commit = Atlas.open(str(tmp_path / "atlas")).record("part-1")
    last = found[-1]
    assert (last["rows"], last["ok"], last["failed"], last["host"]) == (7, 7, 0, commit.host)
    assert last["bytes"] == sum(each.size for each in commit.objects)
    assert last["seconds"] == commit.seconds
    assert {"read", "forward", "legrad", "write", "total"} <= set(last["seconds"])


def test_a_run_that_goes_on_appends_and_standard_error_is_a_log_too(vitatlas, spec: RunSpec, tmp_path: Path) -> None:
    plan(spec, str(tmp_path / "atlas"))
    code, _, err = vitatlas("run", tmp_path / "atlas", "--executor", "inline", "--log", "-")
    assert (code, len(lines(err))) == (0, 3)
    (tmp_path / "log").write_text("")
    for shard in ("part-0", "part-1"):
        (tmp_path / "atlas" / "commits" / f"{shard}.json").unlink()
        assert vitatlas("run", tmp_path / "atlas", "--executor", "inline", "--log", tmp_path / "log")[0] == 0
    assert [line["shard"] for line in lines((tmp_path / "log").read_text())] == ["part-0", "part-1"]


def test_a_log_that_cannot_be_written_is_a_mistake_before_any_work(vitatlas, spec: RunSpec, tmp_path: Path) -> None:
    plan(spec, str(tmp_path / "atlas"))
    code, _, err = vitatlas("run", tmp_path / "atlas", "--executor", "inline", "--log", tmp_path / "no" / "log")
    assert (code, "no/log: No such file or directory; name a file that can be appended to" in err) == (2, True)
    assert not (tmp_path / "atlas" / "commits").exists()
