"""Methods of other projects beside the methods here that compute the same maps, on the same network and images.

Peers are imported only where they run: LXT and hilrp change classes of torch and timm for the whole process. A peer
that takes one image at a time is called for each.
"""

import contextlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.explain import Head, as_timm
from schemas.head import HeadRecord

Maps = Callable[[], Tensor]

WIDTHS = {"ViT-Ti/16": 192, "ViT-S/16": 384, "ViT-B/16": 768}
_TIMM = {
    "ViT-Ti/16": "vit_tiny_patch16_224",
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ResNet-50": "resnet50",
}
_STEPS = 8


@dataclass(frozen=True)
class Case:
    """Network, images and classes that depend on nothing else than these fields.

    Attributes:
        size: one of ``WIDTHS``, of 12 blocks and heads of 64 channels, or another; random weights, 1000 classes.
        batch: number of images.
        dtype: of weights and images.
    """

    size: str
    batch: int
    dtype: torch.dtype

    @cached_property
    def images(self) -> Tensor:
        """[B, 3, 224, 224]."""
        return torch.randn(self.batch, 3, 224, 224, generator=torch.Generator().manual_seed(1), dtype=self.dtype)

    @cached_property
    def classes(self) -> Tensor:
        """int64 [B]."""
        return torch.randint(1000, (self.batch,), generator=torch.Generator().manual_seed(2))

    def timm(self) -> Any:
        """Make timm's network."""
        torch.manual_seed(0)
        return timm.create_model(_TIMM[self.size]).eval().to(self.dtype)

    def torchvision(self) -> Any:
        """Make torchvision's network."""
        from torchvision.models import VisionTransformer

        width = WIDTHS[self.size]
        torch.manual_seed(0)
        network = VisionTransformer(224, 16, 12, width // 64, width, 4 * width)
        for parameter in (network.heads.head.weight, network.class_token):
            nn.init.normal_(parameter, std=0.02)
        return network.eval().to(self.dtype)

    def as_timm(self) -> nn.Module:
        """Make timm's network of torchvision's weights."""
        return as_timm(self.torchvision(), self.images)

    def open_clip(self) -> Any:
        """Make OpenCLIP's model."""
        import open_clip

        torch.manual_seed(0)
        name = {"ViT-S/16": "ViT-S-16", "ViT-B/16": "ViT-B-16", "ViT-Ti/16": "ViT-S-16-alt"}[self.size]
        return open_clip.create_model(name).eval().to(self.dtype)

    @cached_property
    def text(self) -> Tensor:
        """Embedding of a prompt, [1, E]."""
        length = {"ViT-S/16": 384, "ViT-B/16": 512, "ViT-Ti/16": 256}[self.size]
        random = torch.randn(1, length, generator=torch.Generator().manual_seed(3), dtype=self.dtype)
        return F.normalize(random, dim=-1)

    def with_texts(self) -> nn.Module:
        """Make timm's network of OpenCLIP's weights, with the prompt as its only class."""
        from timm.models.vision_transformer import checkpoint_filter_fn

        tower = self.open_clip()
        width, length = tower.visual.proj.shape
        same = timm.create_model(
            "vit_base_patch16_clip_224", embed_dim=width, num_heads=width // 64, num_classes=length
        ).eval()
        weights = checkpoint_filter_fn(tower.state_dict(), same)
        same.load_state_dict(weights | {"head.bias": torch.zeros(length)})
        record = HeadRecord(
            kind="zero_shot",
            classes=("prompt",),
            read_out="token",
            input_width=width,
            projection="backbone head.weight",
            normalise="l2",
        )
        tensors = {"text": self.text, "logit_scale": torch.tensor(100.0, dtype=self.dtype)}
        Head(record, tensors).attach(same.to(self.dtype))
        return same

    def one_by_one(self, maps: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Call a peer for each image [1, 3, H, W] and its class."""
        pairs = zip(self.images, self.classes.tolist(), strict=True)
        return torch.cat([maps(image[None], target) for image, target in pairs])


@dataclass(frozen=True)
class Comparison:
    """A method of a peer, and the one here.

    Attributes:
        peer: its distribution.
        call: what is called.
        method: spec of the method here.
        peer_maps: imports the peer and returns a function that makes its maps, [B, h, w] or [B, H, W].
        network: makes the network that is explained here.
        alike: makes the maps here what the peer's are, where it enlarges and scales them.
        tolerance: of the largest difference in float64, as a fraction of the largest value.
        single_class: the network has one class, the prompt.
        sizes: the networks that it takes; by default all of its suite.
    """

    peer: str
    call: str
    method: str
    peer_maps: Callable[[Case], Maps]
    network: Callable[[Case], nn.Module] = Case.timm
    alike: Callable[[Tensor], Tensor] = lambda maps: maps
    tolerance: float = 1e-9
    single_class: bool = False
    sizes: tuple[str, ...] = ()

    def targets(self, case: Case) -> Tensor:
        """int64 [B, 1]."""
        return torch.zeros(case.batch, 1, dtype=torch.int64) if self.single_class else case.classes[:, None]


@dataclass(frozen=True)
class Suite:
    """Networks, and what is compared on them.

    Attributes:
        sizes: of the networks, see ``Case``.
        comparisons: methods of peers.
        together: specs of the methods that are also measured in one call.
        compared_on: the network on which maps are compared; by default each one itself.
    """

    sizes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    together: tuple[str, ...]
    compared_on: str | None = None


def _patch_sums(pixels: Tensor, side: int = 16) -> Tensor:
    """[B, 3, H, W] or [B, H, W] of relevance → its sum over each cell of side × side pixels."""
    return F.avg_pool2d(pixels.sum(1) if pixels.ndim == 4 else pixels, side) * side**2


def _token_grid(tokens: Tensor) -> Tensor:
    """[B, 1 + N, D] → [B, D, h, w]."""
    patches = tokens[:, 1:]
    return patches.unflatten(1, (math.isqrt(patches.shape[1]), -1)).movedim(-1, 1)


def input_x_gradient(case: Case, side: int = 16) -> Maps:
    """Compute gradient × input by captum, summed over cells of side × side pixels."""
    from captum.attr import InputXGradient

    method = InputXGradient(case.timm())
    return lambda: _patch_sums(
        method.attribute(case.images.clone().requires_grad_(), target=case.classes).detach(), side
    )


def _integrated_gradients(case: Case) -> Maps:
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(case.timm())
    options = {"n_steps": _STEPS, "internal_batch_size": case.batch, "return_convergence_delta": True}
    return lambda: _patch_sums(method.attribute(case.images, target=case.classes, **options)[0].detach())


def _grad_cam(case: Case) -> Maps:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = case.timm()
    cam = GradCAM(network, [network.blocks[-1].norm1], reshape_transform=_token_grid)
    targets = [ClassifierOutputTarget(int(target)) for target in case.classes]
    return lambda: torch.from_numpy(cam(input_tensor=case.images, targets=targets))


def like_grad_cam(maps: Tensor) -> Tensor:
    """Enlarge maps of 224 × 224 pixels and scale them, by the code of grad-cam itself."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    return torch.from_numpy(scale_cam_image(scale_cam_image(maps.numpy(), (224, 224))))


def _torchcam_grad_cam(case: Case) -> Maps:
    from torchcam.methods import GradCAM

    network = case.timm()
    cam = GradCAM(network, network.blocks[-1].norm1, reshape_transform=_token_grid)
    return lambda: cam(case.classes.tolist(), network(case.images), normalized=False)[0]


def _torchcam_legrad(layers: int) -> Callable[[Case], Maps]:
    def build(case: Case) -> Maps:
        from torchcam.methods import LeGrad

        network = case.torchvision()
        cam = LeGrad(network, list(network.encoder.layers)[-layers:])
        return lambda: cam(case.classes.tolist(), network(case.images), normalized=False)[0]

    return build


def _legrad_torch(first: int) -> Callable[[Case], Maps]:
    def build(case: Case) -> Maps:
        from legrad import LeWrapper

        with contextlib.redirect_stdout(io.StringIO()):
            wrapped = LeWrapper(case.open_clip(), layer_index=first)
        return lambda: case.one_by_one(
            lambda image, _: wrapped.compute_legrad_clip(text_embedding=case.text, image=image)[0].detach()
        )

    return build


def _like_legrad_torch(maps: Tensor) -> Tensor:
    large = F.interpolate(maps[None], scale_factor=16, mode="bilinear")[0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return (large - low) / (high - low)


def _reciprocam(case: Case) -> Maps:
    from openvino_xai.methods.white_box.torch import SALIENCY_MAP_OUTPUT_NAME, TorchViTReciproCAM

    inserted = TorchViTReciproCAM(case.timm(), embed_scaling=False).prepare_model()

    @torch.no_grad()
    def of_image(image: Tensor, target: int) -> Tensor:
        maps: Tensor = inserted(image)[SALIENCY_MAP_OUTPUT_NAME]
        return maps[:, target]

    return lambda: case.one_by_one(of_image)


def _rollout(case: Case) -> Maps:
    from fast_vit_rollout import ViTAttentionRollout

    network = case.timm()
    torch.set_default_dtype(case.dtype)  # of its unit matrix
    for block in network.blocks:
        block.attn.fused_attn = False  # else its hook sees no attention
    rollout = ViTAttentionRollout(network, discard_ratio=0.0)
    return lambda: rollout(case.images)[:, 0, 1:].unflatten(1, (14, 14))


def _gamma_rule(case: Case) -> Any:
    """Zennit's rule of γ. Where maps are compared, it adds 1e-20 to denominators in place of its default of 1e-6."""
    from zennit.rules import Gamma

    return partial(Gamma, stabilizer=1e-20) if case.dtype == torch.float64 else Gamma


def hilrp(mode: str, port: str = "vit", side: int = 16) -> Callable[[Case], Maps]:
    """Compute relevance by a port of hilrp, summed over cells of side × side pixels."""

    def build(case: Case) -> Maps:
        code: Any = import_module(f"hilrp.{port}_lxt")
        code.Gamma = _gamma_rule(case)
        attribute, network = getattr(code, f"attribute_{port}"), case.timm()

        def of_image(image: Tensor, target: int) -> Tensor:
            return _patch_sums(attribute(network, image, target=target, attn_mode=mode)["pixel_map"][None], side)

        return lambda: case.one_by_one(of_image)

    return build


def _lxt(case: Case) -> Maps:
    from lxt.efficient import monkey_patch, monkey_patch_zennit
    from torchvision.models import vision_transformer
    from zennit.composites import LayerMapComposite

    monkey_patch(vision_transformer)
    monkey_patch_zennit()
    network = case.torchvision()
    gamma = _gamma_rule(case)
    composite = LayerMapComposite([(nn.Conv2d, gamma(0.25)), (nn.Linear, gamma(0.05))])

    def maps() -> Tensor:
        images = case.images.clone().requires_grad_()
        composite.register(network)
        network(images).gather(1, case.classes[:, None]).sum().backward()
        composite.remove()
        return _patch_sums(images.detach() * images.grad)

    return maps


_COMPARISONS = (
    Comparison("torchcam", "`LeGrad`, all layers", "legrad", _torchcam_legrad(12), Case.as_timm),
    Comparison("torchcam", "`LeGrad`, last four", "legrad:layers=last4", _torchcam_legrad(4), Case.as_timm),
    Comparison(
        "legrad_torch",
        "`LeWrapper`, all layers",
        "legrad:score=cosine",
        _legrad_torch(0),
        Case.with_texts,
        _like_legrad_torch,
        single_class=True,
    ),
    Comparison(
        "legrad_torch",
        "`LeWrapper`, its default of two layers",
        "legrad:layers=last2:score=cosine",
        _legrad_torch(-2),
        Case.with_texts,
        _like_legrad_torch,
        single_class=True,
    ),
    Comparison("torchcam", "`GradCAM`, last `norm1`", "gradcam", _torchcam_grad_cam),
    Comparison("grad-cam", "`GradCAM`, last `norm1`", "gradcam", _grad_cam, alike=like_grad_cam, tolerance=1e-6),
    Comparison("openvino_xai", "`TorchViTReciproCAM`, logits", "reciprocam:score=logit", _reciprocam),
    Comparison("fast-vit-rollout", "`ViTAttentionRollout`, nothing discarded", "rollout", _rollout),
    Comparison("captum", "`InputXGradient`", "grad_input", input_x_gradient),
    Comparison(
        "captum",
        f"`IntegratedGradients`, {_STEPS} steps, with its convergence delta",
        f"integrated_gradients:nodes={_STEPS}",
        _integrated_gradients,
        tolerance=1e-6,  # its nodes are of float32
    ),
    Comparison(
        "hilrp",
        "`attribute_vit`, `attnlrp`, γ = 0.25",
        "attn_lrp:read=pixels:gamma=0.25",
        hilrp("attnlrp"),
        tolerance=1e-6,
    ),
    Comparison(
        "hilrp", "`attribute_vit`, `cp`, γ = 0.25", "cp_lrp:read=pixels:gamma=0.25", hilrp("cp"), tolerance=1e-6
    ),
    Comparison(
        "lxt",
        "CP-LRP on torchvision, γ = 0.25 and 0.05, as in its example",
        "cp_lrp:read=pixels:gamma=0.25:linear_gamma=0.05:gamma_in_attention=false",
        _lxt,
        Case.as_timm,
        tolerance=1e-5,  # it divides by activations + 1e-10
    ),
)

VISION_TRANSFORMERS = Suite(
    ("ViT-S/16", "ViT-B/16"),
    _COMPARISONS,
    (
        *("attention", "rollout", "generic_attention", "gradcam", "attn_gradcam", "agcam"),
        *("legrad", "reciprocam", "pm_zs", "grad_input"),
    ),
    compared_on="ViT-Ti/16",
)
