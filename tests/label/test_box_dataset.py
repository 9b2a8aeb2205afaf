"""Pseudo-boxes are those of the exports, in the form that detectors of torchvision learn from."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from label.test_mask_dataset import about, pair, picture, png
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, Image

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import BoxDataset, label, read_labels
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.policy import Policy, Threshold

POLICY = Policy(name="p", methods=("legrad",), threshold=Threshold(kind="fixed", value=0.6))


@pytest.fixture(scope="module")
def masks(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels")
    label(atlas, POLICY, ["png"], str(out))
    return out


def test_boxes_are_those_of_the_label_table(masks: Path, world: SyntheticDataset) -> None:
    rows = {row["key"]: row for row in read_labels(str(masks)).to_pylist() if row["status"] == "ok"}
    largest = {target["key"]: target for _, target in BoxDataset(world.shards, masks / "png", boxes="largest")}
    found = list(BoxDataset(world.shards, masks / "png"))
    assert [target["key"] for _, target in found] == list(rows) == list(largest)
    assert max(row["components"] for row in rows.values()) > 1
    for image, target in found:
        row = rows[target["key"]]
        boxes = [[x0, y0, x1 + 1, y1 + 1] for x0, y0, x1, y1 in row["boxes"]]
        assert target["boxes"].tolist() == boxes
        assert largest[target["key"]]["boxes"].tolist() == boxes[:1]
        assert target["labels"].tolist() == [row["label"] + 1] * len(boxes)
        assert (image.shape[1:], target["boxes"].canvas_size) == ((row["height"], row["width"]),) * 2
        assert (image.dtype, target["boxes"].dtype, target["labels"].dtype) == (torch.uint8, torch.float32, torch.int64)


def test_transforms_change_image_and_boxes_together(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:10, 2:8], mask[20:22, 30:39] = 1, 1
    mask[0:3, :] = 255
    members = [("s000.mask.png", png(mask)), ("s000.json", about(number=4))]
    pair(tmp_path, picture(0), members)
    folders = tmp_path / "images", tmp_path / "masks"
    ((image, target),) = BoxDataset(*folders)
    assert (type(image), type(target["boxes"])) == (Image, BoundingBoxes)
    assert target["boxes"].tolist() == [[2, 5, 8, 10], [30, 20, 39, 22]]
    assert target["labels"].tolist() == [5, 5]
    ((flipped, moved),) = BoxDataset(*folders, v2.Compose([v2.RandomHorizontalFlip(p=1), v2.Resize((60, 80))]))
    assert moved["boxes"].tolist() == [[64, 10, 76, 20], [2, 40, 20, 44]]
    assert flipped.shape == (3, 60, 80)


def test_a_detector_learns_from_it(masks: Path, world: SyntheticDataset) -> None:
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 7, 16))
    backbone.out_channels = 8
    sizes = {"min_size": 96, "max_size": 128, "rpn_anchor_generator": AnchorGenerator(((32,),), ((1.0,),))}
    detector = FasterRCNN(backbone, num_classes=11, box_roi_pool=MultiScaleRoIAlign(["0"], 2, 1), **sizes)
    dataset = BoxDataset(world.shards, masks / "png", v2.ToDtype(torch.float32, scale=True), shuffle=8)
    assert pickle.loads(pickle.dumps(dataset))
    images, targets = next(iter(DataLoader(dataset, 2, collate_fn=lambda items: tuple(zip(*items, strict=True)))))
    losses = detector(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_boxes_of_a_text_have_no_class(tmp_path: Path) -> None:
    members = [("s000.mask.png", png(np.ones((30, 40), np.uint8))), ("s000.json", b'{"status": "ok", "label": null}')]
    (sample,) = pair(tmp_path, picture(0), members)
    assert sample.label == -1
    with pytest.raises(UsageError, match="s000: its mask is of a text, so its boxes have no class; use MaskDataset"):
        next(iter(BoxDataset(tmp_path / "images", tmp_path / "masks")))


def test_only_two_kinds_of_boxes(tmp_path: Path) -> None:
    pair(tmp_path, picture(0), [("s000.json", about("empty"))])
    with pytest.raises(UsageError, match="boxes: 'first' is neither 'all' nor 'largest'"):
        BoxDataset(tmp_path / "images", tmp_path / "masks", boxes="first")
