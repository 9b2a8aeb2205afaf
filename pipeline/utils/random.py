"""Random numbers that depend on names, not on the order of calls."""

import hashlib

import numpy as np


def rng_for(*parts: str | int) -> np.random.Generator:
    """Return a generator that is seeded by these parts alone, such as key, method, class id and seed of the run.

    It generates on the CPU, so a map depends neither on its batch and shard nor on the machine.
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
