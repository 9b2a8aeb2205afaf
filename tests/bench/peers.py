"""Peers on the same network: whether their maps are ours, and what a map costs, in forwards of the network.

Peers are no dependency of this project: those that are not installed are left out. Both sides run in this process
in one thread, and seconds are those of the CPU, so that other work on the machine does not count. F, one plain
forward of the batch, is timed right before each; the ratio is the median. Maps are compared in float64, on a smaller
network.

    pip install --no-deps --target peers captum grad-cam ttach tqdm
    PYTHONPATH=peers:.:tests python tests/bench/peers.py
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import numpy as np
import timm
import torch
from torch import Tensor, nn

from pipeline.explain import Head, IntegratedGradients, LeGrad, Method, ReciproCAM, explain
from schemas.head import HeadRecord

_STEPS = 8
_PROMPTS = 10
_TIMED, _COMPARED = "vit_small_patch16_224", "vit_tiny_patch16_224"


@dataclass
class Pair:
    """A peer's map and ours of the same images.

    Attributes:
        what: for the table.
        network, images, targets: [B, 3, H, W] and [B] or [B, K].
        ours: the method.
        peer: makes the peer's maps.
        alike: makes ours what the peer's are: enlarged, or summed over a patch the other way.
    """

    what: str
    network: nn.Module
    images: Tensor
    targets: Tensor
    ours: str | Method
    peer: Callable[[], Tensor]
    alike: Callable[[Tensor], Tensor] = lambda maps: maps

    def mine(self) -> Tensor:
        """[B · K, h, w]."""
        targets = self.targets.reshape(len(self.images), -1)
        ((_, maps),) = explain(self.network, self.images, targets, [self.ours]).items()
        return maps.flatten(0, 1)

    def difference(self) -> float:
        """Largest difference of any cell, as a fraction of the largest value."""
        expected, found = self.peer().detach(), self.alike(self.mine())
        return float((found - expected).abs().max() / expected.abs().max())


def captum(network: nn.Module, images: Tensor, targets: Tensor) -> Iterator[Pair]:
    """Per pixel; summed here over channels and the pixels of a patch."""
    from captum.attr import InputXGradient
    from captum.attr import IntegratedGradients as CaptumIG

    def patches(pixels: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(pixels.sum(1), 16) * 256

    plain, integrated = InputXGradient(network), CaptumIG(network)

    def gradient() -> Tensor:
        return patches(plain.attribute(images.clone().requires_grad_(), target=targets))

    def path() -> Tensor:
        return patches(integrated.attribute(images, target=targets, n_steps=_STEPS, internal_batch_size=len(images)))

    yield Pair("captum InputXGradient", network, images, targets, "grad_input", gradient)
    ours = IntegratedGradients(nodes=_STEPS)
    yield Pair(f"captum IntegratedGradients, {_STEPS} steps", network, images, targets, ours, path)


def grad_cam(network: nn.Module, images: Tensor, targets: Tensor) -> Iterator[Pair]:
    """As in its example for vision transformers. It returns maps of the size of the image, in [0, 1], in float32."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def grid(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].unflatten(1, network.patch_embed.grid_size).movedim(-1, 1)

    hooked = copy.deepcopy(network)  # its hooks stay
    cam = GradCAM(model=hooked, target_layers=[hooked.blocks[-1].norm1], reshape_transform=grid)

    def enlarged(maps: Tensor) -> Tensor:
        return torch.from_numpy(scale_cam_image(scale_cam_image(maps.numpy(), tuple(images.shape[:1:-1]))))

    def peer() -> Tensor:
        return torch.from_numpy(cam(input_tensor=images, targets=[ClassifierOutputTarget(int(c)) for c in targets]))

    yield Pair("grad-cam GradCAM", network, images, targets, "gradcam", peer, enlarged)


def openvino_xai(network: nn.Module, images: Tensor, targets: Tensor) -> Iterator[Pair]:
    """One image at a time, since its hook multiplies the batch. Raw logits, of which it has those of all classes."""
    from openvino_xai.methods.white_box.torch import SALIENCY_MAP_OUTPUT_NAME, TorchViTReciproCAM

    inserted = TorchViTReciproCAM(network, embed_scaling=False).prepare_model()

    def peer() -> Tensor:
        with torch.no_grad():
            maps = [inserted(image[None])[SALIENCY_MAP_OUTPUT_NAME] for image in images]
        return torch.cat(maps)[torch.arange(len(images)), targets]

    yield Pair("openvino_xai TorchViTReciproCAM", network, images, targets, ReciproCAM(score="logit"), peer)


def legrad(network: nn.Module, images: Tensor, targets: Tensor) -> Iterator[Pair]:
    """OpenCLIP's ViT-B/16 with random weights, and the same in timm with the texts in a head file.

    One image: its batch are the prompts, for each of which it repeats the image. Its default of two layers is wrong on
    open_clip after 2.23, where blocks without hooks have the batch first.
    """
    import open_clip
    from legrad import LeWrapper
    from timm.models.vision_transformer import checkpoint_filter_fn

    model = open_clip.create_model("ViT-B-16").eval()
    same = timm.create_model("vit_base_patch16_clip_224", num_classes=model.visual.proj.shape[1]).eval()
    weights = checkpoint_filter_fn(model.state_dict(), same)
    same.load_state_dict(weights | {"head.bias": torch.zeros(same.num_classes)})
    text = nn.functional.normalize(torch.randn(_PROMPTS, same.num_classes), dim=-1)
    record = HeadRecord(
        kind="zero_shot",
        classes=tuple(f"prompt {prompt}" for prompt in range(_PROMPTS)),
        read_out="token",
        input_width=same.embed_dim,
        projection="backbone head.weight",
        normalise="l2",
    )
    Head(record, {"text": text, "logit_scale": torch.tensor(100.0)}).attach(same.to(images.dtype))

    def pair(first: int, prompts: int, what: str, ours: LeGrad) -> Pair:
        wrapped = LeWrapper(copy.deepcopy(model).to(images.dtype), layer_index=first)

        def peer() -> Tensor:
            return wrapped.compute_legrad_clip(text_embedding=text[:prompts], image=images[:1])[0]

        what = f"legrad, ViT-B/16, {what}, prompts {prompts}"
        return Pair(what, same, images[:1], torch.arange(prompts)[None], ours, peer, enlarged)

    def enlarged(maps: Tensor) -> Tensor:
        large = nn.functional.interpolate(maps[None], scale_factor=16, mode="bilinear")[0]
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        return (large - low) / (high - low)

    if tuple(map(int, version("open_clip_torch").split(".")[:2])) <= (2, 23):
        yield pair(-2, 1, "last two layers", LeGrad(layers="last2", score="cosine"))
    for prompts in (1, _PROMPTS):
        yield pair(0, prompts, "all layers", LeGrad(score="cosine"))


PEERS = {"captum": captum, "grad-cam": grad_cam, "openvino_xai": openvino_xai, "legrad_torch": legrad}


def seconds(work: Callable[[], object]) -> float:
    """Of the CPU."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def costs(pair: Pair, repeats: int) -> list[float]:
    """Of the peer's map and of ours, in F."""

    def forward() -> None:
        with torch.no_grad():
            pair.network(pair.images)

    ratios = [
        [taken / seconds(forward) for taken in (seconds(pair.peer), seconds(pair.mine))] for _ in range(repeats + 1)
    ]
    return [median(column) for column in np.transpose(ratios[1:])]  # the first warms up


def pairs(load: Callable[..., Iterator[Pair]], name: str, batch: int, dtype: torch.dtype) -> Iterator[Pair]:
    """Of one peer, on a network and images that depend on nothing else."""
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    images, targets = torch.randn(batch, 3, 224, 224), torch.randint(1000, (batch,))
    yield from load(network, images, targets)


def main() -> None:
    """A row for each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=list(PEERS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{_TIMED}, batch {given.batch}, torch {version('torch')}, python {platform.python_version()}", flush=True)
    for name, load in PEERS.items():
        try:
            release = version(name)
        except PackageNotFoundError:
            print(f"{name} is not installed")
            continue
        if given.only in (None, name):
            equal = [pair.difference() for pair in pairs(load, _COMPARED, 2, torch.float64)]
            for pair, difference in zip(pairs(load, _TIMED, given.batch, torch.float32), equal, strict=True):
                theirs, mine = costs(pair, given.repeats)
                print(f"{name} {release} | {pair.what} | {theirs:.2f} F | {mine:.2f} F | {difference:.1e}", flush=True)


if __name__ == "__main__":
    main()
