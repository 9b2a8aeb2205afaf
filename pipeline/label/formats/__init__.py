"""Formats of labels, one file each."""

from pipeline.label.formats.base import LabelFormat
from pipeline.label.formats.coco import Coco
from pipeline.label.formats.cvat import Cvat
from pipeline.label.formats.fiftyone import FiftyOne
from pipeline.label.formats.imagenet_s import ImageNetS
from pipeline.label.formats.labelstudio import LabelStudio
from pipeline.label.formats.parquet import Parquet
from pipeline.label.formats.sam import Sam
from pipeline.label.formats.voc import Voc
from pipeline.label.formats.webdataset_png import Png
from pipeline.label.formats.wsolevaluation import Wsol

LABEL_FORMATS: dict[str, LabelFormat] = {
    "png": Png(),
    "coco": Coco(),
    "voc": Voc(),
    "parquet": Parquet(),
    "imagenet_s": ImageNetS(),
    "wsol": Wsol(),
    "cvat": Cvat(),
    "labelstudio": LabelStudio(),
    "fiftyone": FiftyOne(),
    "sam": Sam(),
}

__all__ = ["LABEL_FORMATS"]
