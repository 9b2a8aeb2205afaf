"""The measurement for a person with a GPU runs where there is none, and prints its table."""

import re

import pytest
from bench import gpu
from support import DEMO_MODEL


def test_the_table_has_both_ways_and_the_difference_between_them(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--batch", "2", "--batches", "2", "--processes", "0", "--scenes", "2", "--methods", "attention,legrad"]
    gpu.main(["--model", DEMO_MODEL.name, "--precision", "full", *small])
    text = capsys.readouterr().out
    assert "2 methods, one target, full, batch 2, 4 pictures; " in text
    table = {
        name: cells for name, *cells in (line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line)
    }
    speeds = [float(cell) for cell in table["images/s, shard to atlas"]]
    assert min(speeds) > 0
    assert [float(cell) == 0 for cell in table["decode, ms an image"]] == [True, False]
    assert table["not decoded on the device"] == ["0", "0"]
    assert all(0 < float(cell.rstrip("%")) < 100 for cell in table["network idle"])
    mean, largest = re.search(r"Pixels of 4 pictures.* mean difference ([0-9.]+), largest (\d+), ", text).groups()
    assert 0 < float(mean) < 0.25
    assert 1 <= int(largest) <= 6
    median, least = re.search(r"LeGrad of 2 demo scenes.* median ([0-9.]+), least ([0-9.]+); ", text).groups()
    assert 0.99 < float(least) <= float(median) <= 1
