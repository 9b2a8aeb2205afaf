"""A small segmenter, taught by the demo's pseudo-masks and by its true ones: ``python -m pipeline.demo.segmenter DIR``.

It learns the class of each pixel, as semantic segmentation does: background or one of the ten. An object of the world
is its texture and its colours together, so that "object" without a class would have no meaning in it. Both segmenters
see the same pictures, by the same reader, equally often; only the masks differ.
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
POLICY = Policy(
    name="legrad-pamr",
    methods=("legrad",),
    refine=Pamr(),
    threshold=Threshold(kind="otsu"),
    postprocess=Postprocess(min_area=0.01),
)
Mask = NDArray[np.bool_]


class Segmenter(nn.Module):
    """A U-Net (Ronneberger et al., MICCAI 2015) of four levels, at half the resolution.

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
        """Logits float32 [B, 11, SIDE, SIDE], background first, of uint8 [B, 3, SIDE, SIDE]."""
        x, levels = normalize(pixels).contiguous(memory_format=torch.channels_last), []
        for down in self.down:
            x = down(x)
            levels.append(x)
        for up, level in reversed(list(zip(self.up, levels[:-1], strict=True))):
            x = up(torch.cat([_larger(x), level], 1))
        return _larger(self.classes(x))


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def _larger(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def prepared(sample: MaskSample) -> tuple[Tensor, Tensor]:
    """What is learnt from: uint8 [3, SIDE, SIDE], and int64 [SIDE, SIDE], 0 background, 1 … 10 or 255 ignored."""
    mask = F.interpolate(sample.mask[None, None], (SIDE, SIDE))[0, 0].long()
    return _squashed(sample.image), torch.where(mask == 1, 1 + sample.label, mask)


def _squashed(image: Tensor) -> Tensor:
    return F.interpolate(image[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]


def train(dataset: MaskDataset, epochs: int, seed: int = 0, batch: int = 32, rate: float = 3e-3) -> Segmenter:
    """Train from scratch.

    Args:
        dataset: its items are ``prepared``.
    """
    torch.manual_seed(seed)
    model = Segmenter().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        for pixels, classes in track(DataLoader(dataset, batch, collate_fn=_mirrored), f"epoch {epoch + 1}/{epochs}"):
            loss = F.cross_entropy(model(pixels), classes, ignore_index=IGNORE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def _mirrored(items: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """A batch, of which each side is mirrored or not."""
    sides = [side for side in (-1, -2) if torch.rand(()) < 0.5]
    return [part.flip(sides) for part in default_collate(list(items))]


@torch.no_grad()
def segment(model: Segmenter, sample: MaskSample) -> Mask:
    """Where the class of a picture is: bool [H, W] of the picture. Its mask is not looked at."""
    logits = model(_squashed(sample.image)[None])
    logits = F.interpolate(logits, sample.mask.shape, mode="bilinear", align_corners=False)[0]
    found: Mask = (logits[1 + sample.label] > logits[0]).numpy()
    return found


def mean_iou(truth: MaskDataset, guess: Callable[[MaskSample], Mask | None]) -> float:
    """Mean over pictures of the IoU with the true mask, at the size of the picture; no mask has 0."""
    overlaps = []
    for sample in truth:
        real, found = sample.mask.numpy() == 1, guess(sample)
        overlaps.append(0.0 if found is None else float(mask_iou(real, found)))
    return float(np.mean(overlaps))


def write_truth(world: SyntheticDataset, folder: Path) -> None:
    """The true masks of a world in shards as ``vitatlas label --format png`` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    truths = read_truth(world.truth)
    for url in expand_shards([world.shards]):
        with open_byte_stream(url) as stream, tarfile.open(folder / Path(url).name, "w") as archive:
            for sample in group_by_key(iter_tar_members(stream), load=True):
                truth = truths.find(sample.key)
                buffer = BytesIO()
                Image.fromarray(truth.mask.astype(np.uint8)).save(buffer, "PNG")  # type: ignore[union-attr]
                about = json.dumps({"status": "ok", "label": int(sample.members["cls"].data or 0)})
                for name, data in (("mask.png", buffer.getvalue()), ("json", about.encode())):
                    member = tarfile.TarInfo(f"{sample.key}.{name}")
                    member.size = len(data)
                    archive.addfile(member, BytesIO(data))


def compare(folder: Path, policy: Policy, scenes: int, held_out: int, epochs: int) -> dict[str, float]:
    """Make worlds, atlases and masks, train on either masks, and compare on held-out scenes.

    Args:
        folder: gets all of it. What is there already is taken as it is.
        policy: of the pseudo-masks.
        scenes, held_out: how many are learnt from, and how many are looked at; multiples of 4 and 2.

    Returns:
        Mean IoU with the truth on held-out scenes: of the pseudo-masks themselves, and of either segmenter.
    """
    learnt = SyntheticDataset(folder / "train", 4, scenes // 4, split="train")
    seen = SyntheticDataset(folder / "heldout", 2, held_out // 2, split="heldout")
    for world in (learnt, seen):
        _masks(world, policy)
    true = MaskDataset(seen.shards, seen.folder / "true")
    pseudo = {sample.key: sample.mask.numpy() == 1 for sample in MaskDataset(seen.shards, _pseudo(seen, policy))}
    figures = {"pseudo-masks": mean_iou(true, lambda sample: pseudo.get(sample.key))}
    for kind, masks in (("pseudo-masks", _pseudo(learnt, policy)), ("true masks", learnt.folder / "true")):
        model = train(MaskDataset(learnt.shards, masks, prepared, shuffle=1000), epochs)
        figures[f"segmenter trained on {kind}"] = mean_iou(true, partial(segment, model))
    return figures


def _pseudo(world: SyntheticDataset, policy: Policy) -> Path:
    return world.folder / f"labels-{policy.name}" / "png"


def _masks(world: SyntheticDataset, policy: Policy) -> None:
    """A world with its atlas, its pseudo-masks and its true masks."""
    if not (world.truth / "instances.json").exists():
        write_dataset(world)
    url = str(world.folder / "atlas")
    model = ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)
    plan(RunSpec(shards=(world.shards,), model=model, methods=policy.methods, targets=(policy.target,)), url)
    label(run(url, INLINE), policy, ["png"], str(_pseudo(world, policy).parent))
    write_truth(world, world.folder / "true")


def main() -> None:
    """Compare a segmenter that learnt from pseudo-masks with them, and with one that learnt from true masks."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--policy", type=read_policy, default=POLICY, help="YAML file; default LeGrad, PAMR, Otsu's cut"
    )
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=5)
    chosen = parser.parse_args()
    figures = compare(chosen.folder, chosen.policy, chosen.scenes, chosen.held_out, chosen.epochs)
    table = Table("on held-out scenes", "mean IoU")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
