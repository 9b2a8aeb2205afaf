"""Decoders that die or hang lose no picture, and the picture that kills them is told apart."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
from read.frames import FRAME, Deadly, Endless, Hungry, of
from support import jpeg

from pipeline.read import DecodedImage, DecoderPool, decoder_pool


@pytest.mark.parametrize("processes", [0, 2])
def test_pictures_come_in_the_order_of_asking(processes: int) -> None:
    with DecoderPool(processes) as pool:
        asked = [pool.submit(jpeg(0, (20 + i, 10)), FRAME) for i in range(20)]
        assert [each.result().width for each in asked] == [20 + i for i in range(20)]


def test_killed_processes_are_replaced_and_nothing_is_lost() -> None:
    with DecoderPool(2) as pool:
        for _ in range(3):
            asked = [pool.submit(jpeg(0, (20 + i, 10)), FRAME) for i in range(40)]
            asked[0].result()
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            assert [each.result().width for each in asked] == [20 + i for i in range(40)]


def test_a_picture_that_kills_its_decoder_is_told_apart() -> None:
    with DecoderPool(2) as pool:
        asked = [pool.submit(jpeg(), of(Deadly) if i == 3 else FRAME) for i in range(8)]
        results = [each.result() for each in asked]
    assert results[3] == "its decoder died, 3 times"
    assert all(isinstance(each, DecodedImage) for i, each in enumerate(results) if i != 3)


def test_a_decoder_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "_TIMEOUT", 1.5)
    with DecoderPool(1) as pool:
        pool.submit(jpeg(), FRAME).result()
        asked = [pool.submit(jpeg(), of(Endless)), *(pool.submit(jpeg(), FRAME) for _ in range(8))]
        assert asked[0].result() == "its decoder did not finish within 2 s, 3 times"
        assert all(isinstance(each.result(), DecodedImage) for each in asked[1:])


def test_a_fork_server_that_is_killed_is_replaced() -> None:
    with DecoderPool(2) as pool:
        for _ in range(2):
            asked = [pool.submit(jpeg(0, (20 + i, 10)), FRAME) for i in range(40)]
            asked[0].result()
            child = multiprocessing.active_children()[0]  # later it counts as gone, with its server
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
            os.kill(child.pid, signal.SIGKILL)
            assert [each.result().width for each in asked] == [20 + i for i in range(40)]
            pool.restart()


def test_decoders_that_die_of_everything_blame_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "_PROBE_CONFIG", of(Deadly))
    with DecoderPool(1) as pool, pytest.raises(OSError, match="decoder processes crash even on a valid test image"):
        pool.submit(jpeg(), of(Deadly)).result()


@pytest.mark.parametrize("processes", [0, 1])
def test_a_lack_of_memory_blames_no_picture(processes: int) -> None:
    with DecoderPool(processes) as pool, pytest.raises(OSError, match="not enough memory"):
        pool.submit(jpeg(), of(Hungry)).result()


def test_decoders_import_nothing_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    code = (
        "from read.frames import FRAME; from pipeline.read import DecoderPool\n"
        "if __name__ == '__main__':\n"
        "    with DecoderPool(1) as pool: print(pool.submit(open('some.jpg', 'rb').read(), FRAME).result().width)"
    )
    (tmp_path / "some.jpg").write_bytes(jpeg())
    (tmp_path / "other").mkdir()
    script = tmp_path / "other" / "script.py"
    script.write_text(code)
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    run = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.stdout == "40\n", run.stderr
    assert not (tmp_path / "ran").exists()


def test_nothing_is_left_running() -> None:
    pool = DecoderPool(2)
    pool.submit(jpeg(), FRAME).result()
    pids = [child.pid for child in multiprocessing.active_children()]
    assert pids
    pool.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
        multiprocessing.active_children()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
