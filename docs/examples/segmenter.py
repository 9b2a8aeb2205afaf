"""Segmentation model trained on pseudo-masks, compared with true masks: ``python docs/examples/segmenter.py DIR``.

It predicts the class of each pixel, as in semantic segmentation: background or one of the ten classes. Objects of the
synthetic dataset are defined by texture and colors together, so "object" without a class is not defined. Both models
are trained on the same images, in the same order, equally often; only the masks differ.
"""

import argparse
import json
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from pipeline.demo.scenes import CLASSES
from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.demo.train_model import MODEL, normalize
from pipeline.image.iou import mask_iou
from pipeline.label import label, read_policy
from pipeline.label.formats.png_encoding import IGNORE
from pipeline.label.mask_dataset import MaskDataset, MaskSample
from pipeline.read import expand_shards
from pipeline.read.byte_stream import open_byte_stream
from pipeline.read.shard_reader import group_by_key
from pipeline.read.tar_members import iter_tar_members
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.truth import read_truth
from schemas.policy import Pamr, Policy, Postprocess, Threshold
from schemas.run import ModelSpec, RunSpec

SIDE = 96
DEFAULT_POLICY = Policy(
    name="legrad-pamr",
    methods=("legrad",),
    refine=Pamr(),
    threshold=Threshold(kind="otsu"),
    postprocess=Postprocess(min_area=0.01),
)
Mask = NDArray[np.bool_]


class Segmenter(nn.Module):
    """U-Net (Ronneberger et al., MICCAI 2015) with four levels, at half the resolution.

    Args:
        width: channels of the first level.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(fine, coarse, 2), _convolution(coarse, coarse))
            for fine, coarse in zip((3, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList(_convolution(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.classes = nn.Conv2d(width, 1 + len(CLASSES), 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits float32 [B, 11, SIDE, SIDE], background first, for pixels uint8 [B, 3, SIDE, SIDE]."""
        x, levels = normalize(pixels).contiguous(memory_format=torch.channels_last), []
        for down in self.down:
            x = down(x)
            levels.append(x)
        for up, level in reversed(list(zip(self.up, levels[:-1], strict=True))):
            x = up(torch.cat([_upsample(x), level], 1))
        return _upsample(self.classes(x))


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def to_training_pair(sample: MaskSample) -> tuple[Tensor, Tensor]:
    """Return pixels uint8 [3, SIDE, SIDE] and classes int64 [SIDE, SIDE]: 0 background, 1 … 10, 255 ignored."""
    mask = F.interpolate(sample.mask[None, None], (SIDE, SIDE))[0, 0].long()
    return _resize(sample.image), torch.where(mask == 1, 1 + sample.label, mask)


def _resize(image: Tensor) -> Tensor:
    return F.interpolate(image[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]


def train_segmenter(
    dataset: MaskDataset, epochs: int, seed: int = 0, batch_size: int = 32, learning_rate: float = 3e-3
) -> Segmenter:
    """Train a segmenter from scratch.

    Args:
        dataset: items of ``to_training_pair``.
        epochs: number of epochs.
        seed: seed of weights and mirroring.
        batch_size: images in each step.
        learning_rate: initial learning rate.
    """
    torch.manual_seed(seed)
    model = Segmenter().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        for pixels, classes in track(
            DataLoader(dataset, batch_size, collate_fn=_collate_mirrored), f"epoch {epoch + 1}/{epochs}"
        ):
            loss = F.cross_entropy(model(pixels), classes, ignore_index=IGNORE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def _collate_mirrored(items: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Collate a batch, and mirror it along each side with probability 1/2."""
    axes = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
    return [tensor.flip(axes) for tensor in default_collate(list(items))]


@torch.no_grad()
def predict_mask(model: Segmenter, sample: MaskSample) -> Mask:
    """Return where the model predicts the class of an image: bool [H, W] in pixels of the image.

    Args:
        model: segmenter.
        sample: sample with image and class id; its mask is not used.
    """
    logits = model(_resize(sample.image)[None])
    logits = F.interpolate(logits, sample.mask.shape, mode="bilinear", align_corners=False)[0]
    mask: Mask = (logits[1 + sample.label] > logits[0]).numpy()
    return mask


def mean_iou(dataset: MaskDataset, predict: Callable[[MaskSample], Mask | None]) -> float:
    """Return the mean IoU with the true masks over images, at the size of the image; no mask counts as 0.

    Args:
        dataset: images with true masks.
        predict: function from a sample to a mask.
    """
    ious = []
    for sample in dataset:
        mask = predict(sample)
        ious.append(0.0 if mask is None else float(mask_iou(sample.mask.numpy() == 1, mask)))
    return float(np.mean(ious))


def write_true_masks(dataset: SyntheticDataset, folder: Path) -> None:
    """Write the true masks in shards, as ``vitatlas label --format png`` writes masks.

    Args:
        dataset: synthetic dataset.
        folder: output folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truths = read_truth(dataset.truth)
    for url in expand_shards([dataset.shards]):
        with open_byte_stream(url) as stream, tarfile.open(folder / Path(url).name, "w") as archive:
            for sample in group_by_key(iter_tar_members(stream), load=True):
                truth = truths.find(sample.key)
                buffer = BytesIO()
                Image.fromarray(truth.mask.astype(np.uint8)).save(buffer, "PNG")  # type: ignore[union-attr]
                record = json.dumps({"status": "ok", "label": int(sample.members["cls"].data or 0)})
                for extension, data in (("mask.png", buffer.getvalue()), ("json", record.encode())):
                    member = tarfile.TarInfo(f"{sample.key}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, BytesIO(data))


def compare_masks(folder: Path, policy: Policy, scenes: int, held_out: int, epochs: int) -> dict[str, float]:
    """Train one segmenter on pseudo-masks and one on true masks, and compare them on held-out scenes.

    Args:
        folder: output folder for datasets, atlases and masks; existing ones are used.
        policy: policy of the pseudo-masks.
        scenes: number of training scenes, a multiple of 4.
        held_out: number of held-out scenes, a multiple of 2.
        epochs: number of training epochs.

    Returns:
        Mean IoU with the truth on held-out scenes: of the pseudo-masks themselves, and of both segmenters.
    """
    training_set = SyntheticDataset(folder / "train", 4, scenes // 4, split="train")
    test_set = SyntheticDataset(folder / "heldout", 2, held_out // 2, split="heldout")
    for dataset in (training_set, test_set):
        _make_masks(dataset, policy)
    truth = MaskDataset(test_set.shards, test_set.folder / "true")
    pseudo_samples = MaskDataset(test_set.shards, _pseudo_masks(test_set, policy))
    pseudo_masks = {sample.key: sample.mask.numpy() == 1 for sample in pseudo_samples}
    ious = {"pseudo-masks": mean_iou(truth, lambda sample: pseudo_masks.get(sample.key))}
    mask_folders = {
        "pseudo-masks": _pseudo_masks(training_set, policy),
        "true masks": training_set.folder / "true",
    }
    for kind, masks in mask_folders.items():
        model = train_segmenter(MaskDataset(training_set.shards, masks, to_training_pair, shuffle=1000), epochs)
        ious[f"segmenter trained on {kind}"] = mean_iou(truth, partial(predict_mask, model))
    return ious


def _pseudo_masks(dataset: SyntheticDataset, policy: Policy) -> Path:
    return dataset.folder / f"labels-{policy.name}" / "png"


def _make_masks(dataset: SyntheticDataset, policy: Policy) -> None:
    """Make the atlas, the pseudo-masks and the true masks of a dataset."""
    if not (dataset.truth / "instances.json").exists():
        write_dataset(dataset)
    url = str(dataset.folder / "atlas")
    model = ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)
    plan(RunSpec(shards=(dataset.shards,), model=model, methods=policy.methods, targets=(policy.target,)), url)
    label(run(url, INLINE), policy, ["png"], str(_pseudo_masks(dataset, policy).parent))
    write_true_masks(dataset, dataset.folder / "true")


def main() -> None:
    """Compare pseudo-masks, a segmenter trained on them, and one trained on true masks."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--policy", type=read_policy, default=DEFAULT_POLICY, help="YAML file; default LeGrad, PAMR, Otsu's threshold"
    )
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    ious = compare_masks(arguments.folder, arguments.policy, arguments.scenes, arguments.held_out, arguments.epochs)
    table = Table("on held-out scenes", "mean IoU")
    for name, value in ious.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
