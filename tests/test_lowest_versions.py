"""``make lowest`` installs what it says: the oldest version that ``pyproject.toml`` allows of each dependency."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("cluster", "query", "s3")
REQUIREMENTS = PROJECT["dependencies"] + [line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]]
LINES = [line for line in (ROOT / "constraints-lowest.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {name.lower(): version for name, _, version in (line.partition("==") for line in LINES)}


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_the_oldest_version_is_the_lower_bound(line: str) -> None:
    requirement = Requirement(line)
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    oldest, lower = Version(PINS[requirement.name]).release, Version(bound.version).release
    assert oldest[: len(lower)] == lower, "make constraints-lowest.txt again, as its first lines say"
