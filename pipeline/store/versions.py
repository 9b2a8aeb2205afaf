"""Versions of the packages that computed an atlas, and whether its shards differ in them."""

from collections import Counter
from collections.abc import Mapping

_SEPARATOR = ", "


def join_versions(earlier: Mapping[str, str], later: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of a shard of which some samples were computed later.

    Args:
        earlier: version by package; several are separated by commas.
        later: version by package.
    """
    return {
        package: _SEPARATOR.join(dict.fromkeys([*earlier.get(package, version).split(_SEPARATOR), version]))
        for package, version in later.items()
    }


class VersionCounts:
    """Number of shards by package and version."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, versions: Mapping[str, str]) -> None:
        """Count the versions of one shard."""
        for package, joined in versions.items():
            self._counts.setdefault(package, Counter()).update(joined.split(_SEPARATOR))

    def mixed(self) -> dict[str, dict[str, int]]:
        """Return the number of shards by version, of each package that has several versions."""
        return {
            package: dict(sorted(counts.items())) for package, counts in sorted(self._counts.items()) if len(counts) > 1
        }
