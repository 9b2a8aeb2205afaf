"""How long the network will take, at the speed that the run had."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.metrics.run_speed import describe_time


class Commits:
    """An atlas of shards whose forwards took some seconds an image."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = dict(zip("abcdef", seconds, strict=False))

    def record(self, shard: str) -> Any:
        return SimpleNamespace(seconds={"forward": 100 * self.seconds[shard]}, ok=100)


@pytest.mark.parametrize(
    ("cores", "seconds", "said"),
    [
        (1, (0.1,), "0.92 min in 1 process as fast as the run was"),
        (2, (0.1,), "0.92 min in 1 process as fast as the run was"),
        (2, (0.9, 0.1, 0.1), "0.46 min in 2 processes as fast as the run was"),  # the first shard is slow
    ],
)
def test_masked_forwards_take_about_half_as_long_as_those_of_the_run(
    cores: int, seconds: tuple[float, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    commits: Any = Commits(*seconds)
    assert describe_time(commits, list("abcdef")[: len(seconds)], 1000) == said
