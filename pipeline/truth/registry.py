"""Registry of the truth formats, one line each, and the function that reads them all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.truth import (
    coco,
    coco_results,
    csv_boxes,
    ilsvrc,
    imagenet_segmentation,
    mask_folder,
    point_labels,
    voc,
    wsolevaluation,
)
from pipeline.truth.truth_set import TruthSet
from schemas.errors import UsageError
from schemas.run import KeySeparator, MaskValues, TruthOrientation


@dataclass(frozen=True)
class TruthFormat:
    """A format of annotation files.

    Attributes:
        file: name of a file in this format, for errors; None if the format is a folder only.
        folder: content of a folder in this format, likewise; None if the format is a file only.
        matches: returns True if a path has this format, judged by file names only.
        read: reads the path, given the dot that ends the keys of samples.
    """

    file: str | None
    folder: str | None
    matches: Callable[[Path], bool]
    read: Callable[[Path, KeySeparator], TruthSet]


TRUTH_FORMATS: dict[str, TruthFormat] = {
    "imagenet_segmentation": TruthFormat(".mat", None, imagenet_segmentation.matches, imagenet_segmentation.read),
    "coco": TruthFormat(".json", coco.INSTANCES, coco.matches, coco.read),
    "points": TruthFormat("*point-labels*.csv", None, point_labels.matches, point_labels.read),
    "table": TruthFormat(".csv or .txt with boxes", None, csv_boxes.matches, csv_boxes.read),
    "wsolevaluation": TruthFormat(None, wsolevaluation.EXPECTED, wsolevaluation.matches, wsolevaluation.read),
    "voc": TruthFormat(None, voc.EXPECTED, voc.matches, voc.read),
    "ilsvrc": TruthFormat(None, "XML annotations", ilsvrc.matches, ilsvrc.read),
    "png": TruthFormat(None, "PNG masks", mask_folder.matches, mask_folder.read),
}
"""In the order of detection: the first format that matches is read."""


def read_truth(
    path: str | Path,
    orientation: TruthOrientation | None = None,
    mask_values: MaskValues | None = None,
    key_separator: KeySeparator = "first-dot",
) -> TruthSet:
    """Read the truth in a file or a folder of any registered format.

    Args:
        path: the file or folder.
        orientation: of the images that its coordinates are of. None: by the sizes of the images where these decide,
            otherwise images with an EXIF orientation are refused.
        mask_values: what the values of PNG masks named by key are. None: by their mode where that decides, otherwise
            gray masks are refused.
        key_separator: dot of a file name that ends the key of its image, as in the run that the images are of.

    Raises:
        UsageError: the path does not exist, has no known format, or holds a fault.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: No such file or folder")
    for truth_format in TRUTH_FORMATS.values():
        if truth_format.matches(path):
            return truth_format.read(path, key_separator).with_options(orientation, mask_values)
    formats = TRUTH_FORMATS.values()
    if path.is_file():
        files = ", ".join(each.file for each in formats if each.file is not None)
        raise UsageError(f"{path}: is in no format that is read; files are {files}, other formats are folders")
    folders = " nor ".join(each.folder for each in formats if each.folder is not None)
    raise UsageError(f"{path}: holds neither {folders}; name a file or folder with one of these")


def read_masks(
    path: str | Path,
    images: str | Path | None = None,
    min_score: float | None = None,
    orientation: TruthOrientation | None = None,
    mask_values: MaskValues | None = None,
    key_separator: KeySeparator = "first-dot",
) -> TruthSet:
    """Read masks that were predicted: a file of COCO results, or any format of ``read_truth`` that has masks.

    Args:
        path: the file or folder.
        images: of results: COCO file of instances with the images that their ids are of.
        min_score: of results: those with a lower score do not count. None: all do, unless their scores differ.
        orientation: see ``read_truth``.
        mask_values: likewise.
        key_separator: likewise.

    Raises:
        UsageError: see ``read_truth``, ``parse_results`` and ``masks_of_results``; objects of one image are of several
            COCO categories; or ``images`` or ``min_score`` is given for what is no file of results.
    """
    path = Path(path)
    if coco_results.is_results(path):
        results = coco_results.parse_results(path, Path(images) if images else None, key_separator)
        return coco_results.masks_of_results(results, min_score).with_options(orientation, mask_values)
    if images is not None or min_score is not None:
        flag = "--images" if images is not None else "--min-score"
        raise UsageError(f"{path}: is no file of COCO results; leave out {flag}")
    masks = read_truth(path, orientation, mask_values, key_separator)
    for truth in masks.by_key.values():
        if isinstance(truth, coco.CocoTruth):
            coco.refuse_mixed_categories(path, truth.key, truth.annotations)
    return masks
