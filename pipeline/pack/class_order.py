"""Comparison of the order of the classes with that of networks trained on ImageNet."""

import re
from pathlib import Path

from pipeline.pack.pack_dataset import CLASSES

_WORDNET_ID = re.compile(r"n\d{8}")
_SETS = ("imagenet-1k", "imagenet-12k", "imagenet-21k")


def describe_first_difference(out: Path) -> str | None:
    """Return a sentence if classes that are WordNet ids are not in the order of any set that networks are trained on.

    Args:
        out: folder of a pack.
    """
    path = out / CLASSES
    names = path.read_text("utf-8").splitlines() if path.exists() else []
    if not names or not all(map(_WORDNET_ID.fullmatch, names)):
        return None
    from timm.data.imagenet_info import ImageNetInfo  # imports torch, which packing does without

    orders = {name: ImageNetInfo(name).label_names() for name in _SETS}
    if any(names == list(order) for order in orders.values()):
        return None
    name, order = next(iter(orders.items()))
    number, (ours, theirs) = next(
        (index, pair) for index, pair in enumerate(zip([*names, "nothing"], order, strict=False)) if pair[0] != pair[1]
    )
    return (
        f"class {number} is {ours} here and {theirs} in {name}: labels are not those of a network trained on it; "
        "to use its order, name its WordNet ids by --classes"
    )
