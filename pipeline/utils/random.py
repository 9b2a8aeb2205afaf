"""Where methods that draw at random get their numbers from."""

import hashlib

import numpy as np


def rng_for(*parts: str | int) -> np.random.Generator:
    """Random numbers that depend on these parts alone: on key, method, class and seed of the run.

    They are drawn on the CPU, so a map does not depend on its batch, its shard, or the machine.
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
