"""Opening of sources: which kind a path is, judged by the files that it names."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.score.sources.atlas_source import AtlasSource
from pipeline.score.sources.box_table import BoxFile
from pipeline.score.sources.coco_results import open_results
from pipeline.score.sources.map_files import MapFiles
from pipeline.score.sources.source import ScoreSource
from pipeline.store import Atlas, MapReader, ObjectStore
from pipeline.truth import TruthSet
from pipeline.truth.truth_faults import TruthFaults
from pipeline.utils.source_name import split_source_name
from schemas.errors import UsageError
from schemas.layout import RUN
from schemas.run import KeySeparator

_EXPECTED = "an atlas, a folder or .tar of .npy, .npz or .png maps, .json results of COCO, or a .csv of boxes"


def is_atlas(path: str) -> bool:
    """Return whether a path or URL is that of an atlas.

    Raises:
        UsageError: there is no such file or folder.
    """
    if "://" not in path and not Path(path).is_dir():
        if not Path(path).exists():
            raise UsageError(f"{path}: is not {_EXPECTED} (there is no such file or folder); name one")
        return False
    return ObjectStore(path).exists(RUN)


def open_source(
    path: str | MapReader,
    truth: TruthSet,
    name: str | None = None,
    target_kind: str = "label",
    methods: Sequence[str] = (),
    separator: KeySeparator = "first-dot",
    are_image_sized: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> ScoreSource:
    """Open what is to be scored: an atlas, or files of another program.

    Args:
        path: of an atlas, or the opened one; of a folder or tar of ``.npy``, ``.npz`` or ``.png`` files, one for each
            image; of JSON results of COCO; or of a CSV of boxes.
        truth: that it will be scored against; it has the ids of images that COCO results name.
        name: of the source in tables; None: see ``split_source_name``.
        target_kind: of the maps of an atlas.
        methods: of an atlas; empty is all.
        separator: dot of a file name that ends the key of its image.
        are_image_sized: the files are maps, each as large as its image.
        log: called with a message for files that are left out, and with each sign that boxes are not in pixels of the
            images, where the truth gives their sizes.

    Raises:
        UsageError: it is nothing of these, or cannot be read.
    """
    if isinstance(path, MapReader):
        target = path.find_target(target_kind)
        return AtlasSource.of(path, target, path.select_methods(target, methods), name)
    name = name or split_source_name(path)[0]
    if "://" in path or is_atlas(path):
        return open_source(Atlas.open(path), truth, name, target_kind, methods)
    file = Path(path)
    suffix = file.suffix.lower()
    if file.is_dir() or (file.is_file() and suffix == ".tar"):
        return MapFiles.open(file, name, separator, are_image_sized, log)
    if file.is_file() and suffix == ".json":
        source = open_results(file, name, truth, separator)
    elif file.is_file() and suffix in (".csv", ".txt"):
        source = BoxFile.open(file, name, separator)
    else:
        raise UsageError(f"{path}: is not {_EXPECTED}; name one")
    if isinstance(source, BoxFile):
        for fault in _find_box_faults(source, truth):
            log(fault)
    return source


def _find_box_faults(source: BoxFile, truth: TruthSet) -> Iterator[str]:
    """Return the signs that boxes are not in pixels of the images whose sizes the truth gives."""
    faults = TruthFaults()
    for shard in source.shard_names:
        for key, box in source.parts[shard].items():
            found = truth.find(key)
            if found is not None and found.size is not None:
                faults.add_boxes(np.array([box], np.float64), found.size)
    return faults.describe(source.url)
