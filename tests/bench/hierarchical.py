"""LRP maps of hierarchical transformers beside those of hilrp, on small networks of random weights in float64.

    PYTHONPATH=.:tests peers/bin/python tests/bench/hierarchical.py

The environment is that of `peers.txt`. Prints a table, and exits with 1 where a map differs by more than 1e-6 of its
largest value. hilrp changes classes of torch and timm for the whole process, so the maps here are computed first.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import timm
import torch
from some_networks import CLASSES, TIMM, random_images, randomize
from torch import Tensor, nn

from pipeline.explain import describe, explain

TOLERANCE = 1e-6
TARGETS = (1, 2)


@dataclass(frozen=True)
class Comparison:
    """A network of timm with what makes it small, the port of hilrp with its options, and the method here."""

    model: str
    port: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)

    def network(self) -> Any:
        """Make the network, of 64 × 64 pixels."""
        torch.manual_seed(0)
        network: Any = timm.create_model(self.model, num_classes=CLASSES, **(self.sizes or TIMM.get(self.model, {})))
        randomize(network)
        for module in network.modules():  # in place, the gate of hilrp's rule for activations is 1
            if getattr(module, "inplace", False):
                module.inplace = False
        return network.double().eval()


PVT = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 2, 4)}
CP, ATTN = "cp_lrp:read=pixels:gamma=0.25", "attn_lrp:read=pixels:gamma=0.25"
COMPARISONS = (
    Comparison("swin_tiny_patch4_window7_224", "swin", CP, {"attn_mode": "cp"}),
    Comparison("swin_tiny_patch4_window7_224", "swin", ATTN, {"attn_mode": "attnlrp"}),
    Comparison("swin_s3_tiny_224", "swin", CP, {"attn_mode": "cp"}, TIMM["swin_tiny_patch4_window7_224"]),
    Comparison("pvt_v2_b0", "pvt", CP),
    Comparison("pvt_v2_b2_li", "pvt", CP, {}, PVT),
    Comparison("maxvit_nano_rw_256", "maxvit", CP),
    Comparison("maxvit_tiny_tf_224", "maxvit", CP, {}, TIMM["maxvit_nano_rw_256"]),
    Comparison("mobilevitv2_050", "mobilevit", CP),
    Comparison("efficientvit_b0", "efficientvit", "cp_lrp:read=pixels:gamma=0.05:linear_gamma=0.25"),
)


def complete_maxvit(port: Any) -> None:
    """Add to hilrp's port of MaxViT the rules of its other ports that it leaves out."""
    from lxt.efficient.patches import non_linear_forward, patch_method
    from timm.layers import GELUTanh, SEModule
    from timm.layers.activations import GELU, Tanh

    def excite(self: Any, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        gate: Tensor = self.gate(self.fc2(self.act(self.bn(self.fc1(pooled)))))
        return x * gate.detach()

    def pairs(network: nn.Module) -> Iterable[tuple[list[str], str]]:
        for path, module in network.named_modules():
            for convolution, norm in (("conv1", "norm1"), ("conv1_1x1", "norm1"), ("conv2_kxk", "norm2")):
                if hasattr(module, convolution) and isinstance(getattr(module, norm, None), nn.BatchNorm2d):
                    yield [f"{path}.{convolution}"], f"{path}.{norm}"

    activation = partial(patch_method, non_linear_forward, keep_original=True)
    port.MAXVIT_PATCH_MAP |= dict.fromkeys((nn.GELU, GELU, GELUTanh, Tanh), activation)
    port.MAXVIT_PATCH_MAP[SEModule] = partial(patch_method, excite)
    port._bn_pairs = lambda network: list(pairs(network))


def peer(comparison: Comparison) -> Callable[[nn.Module, Tensor, int], Tensor]:
    """Return hilrp's map of the pixels [H, W] of an image [1, 3, H, W] and its class."""
    port: Any = import_module(f"hilrp.{comparison.port}_lxt")
    from zennit.rules import Gamma

    port.Gamma = partial(Gamma, stabilizer=1e-20)  # in place of 1e-6
    if comparison.port == "maxvit" and not port._PATCHED:
        complete_maxvit(port)
    attribute = getattr(port, f"attribute_{comparison.port}")

    def pixels(network: nn.Module, image: Tensor, target: int) -> Tensor:
        result: Tensor = attribute(network, image, target=target, **comparison.options)["pixel_map"]
        return result

    return pixels


def main() -> None:
    """Compare, and print the table."""
    torch.set_num_threads(1)
    images = random_images(len(TARGETS))
    networks = [comparison.network() for comparison in COMPARISONS]
    classes = torch.tensor(TARGETS)[:, None]
    maps = [
        next(iter(explain(network, images, classes, comparison.method).values()))[:, 0]
        for network, comparison in zip(networks, COMPARISONS, strict=True)
    ]
    grids = [describe(network, (64, 64)).grid for network in networks]
    failed = []
    for comparison, network, ours, (rows, columns) in zip(COMPARISONS, networks, maps, grids, strict=True):
        attribute, differences = peer(comparison), []
        for image, target, computed in zip(images, TARGETS, ours, strict=True):
            pixels = attribute(network, image[None], target)
            theirs = pixels.unflatten(1, (columns, -1)).unflatten(0, (rows, -1)).sum((1, 3))
            differences.append(float((computed - theirs).abs().max() / theirs.abs().max()))
        print(f"| `{comparison.model}` | `{comparison.method}` | {max(differences):.0e} |", flush=True)
        if not all(difference <= TOLERANCE for difference in differences):
            failed.append(f"{comparison.model} {comparison.method}")
    if failed:
        sys.exit(f"maps differ by more than {TOLERANCE} of their largest value: {', '.join(failed)}")


if __name__ == "__main__":
    main()
