"""How a run stands is read from the files of its atlas, by whoever can read them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support import write_tar

from pipeline.run import INLINE, run, status
from pipeline.run.plan import plan
from pipeline.run.status import ShardProgress, StatusReader, idle_share, images_per_second
from pipeline.store import Lease, lease
from schemas.commits import LeaseRecord
from schemas.errors import RunFailedError
from schemas.layout import LEASE
from schemas.run import Decode, RunSpec


def progress(finished: float, rows: int = 10, idle: float = 1.0) -> ShardProgress:
    return ShardProgress(finished - 5, finished, rows, {"ok": rows}, idle, 4.0)


def test_speed_is_that_of_the_latest_tars(monkeypatch: pytest.MonkeyPatch) -> None:
    assert images_per_second([]) is None
    assert (
        images_per_second([progress(110), progress(105)]) == 2
    )  # since 100, when the first of them began: start-up does not count
    assert images_per_second([progress(100)._replace(started=99.9)]) == 10  # stamps are of whole seconds
    monkeypatch.setattr(status, "_RECENT_SHARDS", 2)
    assert images_per_second([progress(104), progress(1004), progress(1008)]) == pytest.approx(20 / 904)
    assert images_per_second([progress(1004), progress(1000), progress(1008)]) == pytest.approx(20 / 8)


def test_idle_is_the_time_in_which_networks_waited() -> None:
    assert idle_share([]) is None
    assert idle_share([progress(0, idle=1), progress(0, idle=3)]) == 0.5


@pytest.mark.parametrize("decode", ["processes", "gpu"])
def test_a_network_waits_in_every_stage_that_is_not_its_own(spec: RunSpec, tmp_path: Path, decode: Decode) -> None:
    plan(spec.model_copy(update={"decode": decode}), str(tmp_path / "atlas"))
    (commit, *_) = run(str(tmp_path / "atlas"), replace(INLINE, device="cpu")).records()
    own = {"forward", "norms", *spec.methods}
    assert set(commit.seconds) - own == {"read", "collect", "write", "total"} | (
        {"decode"} if decode == "gpu" else set()
    )
    waited = sum(took for stage, took in commit.seconds.items() if stage not in own | {"total"})
    assert ShardProgress.from_commit(commit).idle == pytest.approx(waited)


def test_a_run_is_seen_from_its_plan_to_its_end(finished: Path, spec: RunSpec, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    seen = StatusReader(str(out))
    before = seen.read()
    assert (before.shards, before.done, before.images, before.active, before.ended) == (3, 0, 16, False, False)
    mine = LeaseRecord(holder="a", host="elsewhere", pid=1, since="2020-01-01T00:00:00+00:00", in_progress=("part-1",))
    (out / LEASE).write_bytes(mine.to_bytes())
    assert (seen.read().active, seen.read().in_progress, seen.read().rate) == (True, ("part-1",), None)
    shutil.copytree(finished, out, dirs_exist_ok=True)
    (out / "commits" / "part-2.json").unlink()
    midway = seen.read()
    assert (midway.done, midway.images_done, midway.complete, midway.ended) == (2, 12, False, False)
    assert midway.rate is not None
    assert midway.seconds_left == pytest.approx(4 / midway.rate)
    assert 0 < midway.idle < 1
    shutil.copy(finished / "commits" / "part-2.json", out / "commits")
    (out / LEASE).unlink()
    after = seen.read()
    assert (after.done, after.complete, after.ended, after.rate, after.in_progress) == (3, True, True, None, ())


def test_each_commit_is_read_once(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    seen, get = StatusReader(str(finished)), status.Atlas.parse_commit

    def counted(self, index: int, shard: str, data: bytes):
        read.append(shard)
        return get(self, index, shard, data)

    monkeypatch.setattr(status.Atlas, "parse_commit", counted)
    for _ in range(3):
        assert seen.read().complete
    assert read == ["part-0", "part-1", "part-2"]


def test_a_holder_that_is_silent_is_not_at_work(spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    (out / LEASE).write_bytes(LeaseRecord(holder="a", host="gone", pid=1, since="2026-01-01T00:00:00Z").to_bytes())
    seen = StatusReader(str(out))
    assert seen.read().active
    monkeypatch.setattr(status, "TIMEOUT", 0.0)
    assert not seen.read().active


def test_a_run_says_what_it_is_at(spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an inline run hands to its lease, shard by shard."""
    said: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        Lease, "in_progress", property(lambda self: (), lambda self, shards: said.append(shards)), raising=False
    )
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    assert [shards for shards in said if shards] == [("part-0",), ("part-1",), ("part-2",)]


def test_what_a_run_says_stands_in_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.store import ObjectStore

    monkeypatch.setattr(lease, "HEARTBEAT", 0.02)
    objects = ObjectStore(str(tmp_path))
    with Lease(objects) as held:
        held.in_progress = ("part-1",)
        while LeaseRecord.read(objects.get(LEASE), LEASE).in_progress != ("part-1",):
            pass


def test_watching_ends_with_the_run_one_line_a_look(vitatlas, finished: Path) -> None:
    code, text, _ = vitatlas("status", finished, "--watch")
    assert code == 0
    assert text.startswith("shards 3 of 3, running none, no run is active, failed 0, images 16 of 16, images/s –")
    assert len(text.splitlines()) == 1
    code, text, _ = vitatlas("status", finished, "--watch", "--json")
    (look,) = (json.loads(line) for line in text.splitlines())
    assert (code, look["done"], look["images_done"], look["ended"]) == (0, 3, 16, True)


def test_who_stops_watching_is_not_told_that_the_run_has_stopped(
    vitatlas, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.live_status.time.sleep", interrupted)
    plan(spec, str(tmp_path / "atlas"))
    code, text, err = vitatlas("status", tmp_path / "atlas", "--watch")
    assert code == 75
    assert "running none, not started" in text
    assert "network idle –" in text
    assert "stopped watching" in err
    assert "stopped early" not in err


def test_a_run_that_set_tars_aside_ends_with_one_and_the_reasons(vitatlas, spec: RunSpec, tmp_path: Path) -> None:
    """A reason is counted, whatever the shard; what a stranger named is text."""
    for name in ("part-0.tar", "part-1.tar"):
        broken = tmp_path / "shards" / name
        broken.write_bytes(broken.read_bytes()[:5000])
    write_tar(tmp_path / "shards" / "part-2.tar", [("a.jpg", b"junk"), ("a.cls", b"1")])
    out = tmp_path / "atlas"
    plan(spec, str(out))
    with pytest.raises(RunFailedError):
        run(str(out), INLINE)
    code, text, err = vitatlas("status", out, "--watch")
    assert code == 1
    assert "failed 2" in text
    assert "; 1 × undecodable; 2 × it is truncated" in text
    assert f"2 of 3 shards are quarantined; see vitatlas status {out}" in err


def test_a_terminal_gets_a_picture_in_which_names_are_text(finished: Path) -> None:
    from dataclasses import replace

    from rich.console import Console

    from jobs.live_status import display

    standing = replace(
        StatusReader(str(finished)).read(),
        quarantined={"[red]\x1b[31mx": 2},
        failed={"undecodable": 3},
        seconds_left=3700.0,
    )
    console = Console(width=100)
    with console.capture() as captured:
        console.print(display("[bold]atlas", standing))
    shown = captured.get()
    for text in ("[bold]atlas", "[red]\\x1b[31mx", "undecodable", "1:01:40", "3 of 3"):
        assert text in shown
