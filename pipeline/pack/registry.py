"""Registry of the sources, one line each."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.pack import coco, cub, image_folder, imagenet, lists, voc
from pipeline.pack.source import Source

SOURCES: dict[str, Callable[[Path, str | None, Sequence[str]], Source]] = {
    "folder": image_folder.read,
    "imagenet": imagenet.read,
    "cub": cub.read,
    "lists": lists.read,
    "voc": voc.read,
    "coco": coco.read,
}
"""Reader of each kind: takes the path, the split if one is named, and the classes that the user gave."""
