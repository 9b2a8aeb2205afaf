"""Classes of modules that the methods have rules for, and what makes a module do something else.

Methods read weights, run parts of the network on a few tokens, use that a layer is linear, or give a function another
derivative. That is right only for the code that it was written for, so each part of a network is accepted by the
identity of its class. An adapter, a quantized layer or a class of the same name is refused.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import timm.layers
import timm.models
from timm.layers.activations import GELU
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.beit import Block as BeitBlock
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vision_transformer_relpos import RelPosAttention, RelPosBlock, VisionTransformerRelPos
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from pipeline.explain.head_modules import LinearHead, TokenAndMean, ZeroShotHead
from pipeline.explain.register_modules import RegisterBlocks, RegisterShift

_layers: Any = timm.layers
_vit: Any = timm.models.vision_transformer

NETWORKS = (VisionTransformer, VisionTransformerDistilled, Eva, Beit, VisionTransformerRelPos)
"""Classes of networks."""

BLOCKS = {
    Block: "vit_tiny_patch16_224",
    BeitBlock: "beit_base_patch16_224",
    EvaBlock: "eva02_tiny_patch14_224",
    RelPosBlock: "vit_relpos_small_patch16_224",
}
"""Classes of blocks that compute y = x + attn(norm1(x)), then y + mlp(norm2(y)), each branch scaled or not.

Each with a timm model that has it, on which the tests try every method.
"""

ATTENTIONS = {
    _vit.Attention: "vit_tiny_patch16_224",
    _layers.AttentionRope: "vit_base_patch16_rope_224",
    BeitAttention: "beit_base_patch16_224",
    EvaAttention: "eva02_tiny_patch14_224",
    RelPosAttention: "vit_relpos_small_patch16_224",
}
"""Classes of softmax attention of every token to every token, each with a timm model that has it."""

MLPS = (_layers.Mlp, _layers.GluMlp, _layers.SwiGLU)
"""Classes of MLPs: functions of one token that end in a linear layer."""

NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    _layers.LayerNorm,
    _layers.LayerNormFp32,
    _layers.RmsNorm,
    _layers.RmsNormFp32,
)
"""Classes of norms: functions of one token."""

ACTIVATIONS = (nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, GELU, _layers.GELUTanh, _layers.QuickGELU)
"""Classes of activation functions: functions of one number."""

_LINEAR = (nn.Linear,)
_NORM = (*NORMS, nn.Identity)
_SCALE = (_layers.LayerScale, nn.Identity)
_DROPOUT = (nn.Dropout, _layers.DropPath, _layers.PatchDropout, nn.Identity)  # none of them does anything in evaluation
_CONTAINER = (nn.Sequential, nn.ModuleList)
_HEAD_LAYER = (nn.Sequential, nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.Identity, *NORMS, *ACTIVATIONS)

_CLASSES: dict[str, Collection[type]] = {
    "patch_embed": (_layers.PatchEmbed, _layers.HybridEmbed),
    "rope": (_layers.RotaryEmbeddingCat, _layers.RotaryEmbeddingMixed, _layers.RotaryEmbeddingDinoV3),
    **dict.fromkeys(("rel_pos", "shared_rel_pos"), (_layers.RelPosMlp, _layers.RelPosBias)),
    "blocks": (*_CONTAINER, RegisterBlocks),
    "attn": ATTENTIONS,
    "attn_pool": (_layers.AttentionPoolLatent,),
    "mlp": MLPS,
    "act": ACTIVATIONS,
    "head": (nn.Sequential, nn.Linear, LinearHead, ZeroShotHead),
    "projection": (nn.Linear, nn.Identity),
    "q": (nn.Linear, nn.Identity),
    **dict.fromkeys(("kv", "qkv", "q_proj", "k_proj", "v_proj", "proj", "gate"), _LINEAR),
    **dict.fromkeys(("fc1", "fc1_g", "fc1_x", "fc2", "head_dist"), _LINEAR),
    **dict.fromkeys(("norm", "norm1", "norm2", "norm_pre", "q_norm", "k_norm"), _NORM),
    "fc_norm": (*_NORM, TokenAndMean),
    **dict.fromkeys(("ls1", "ls2"), _SCALE),
    "drop1": (*_DROPOUT, RegisterShift),
    **dict.fromkeys(("drop2", "drop_path1", "drop_path2", "attn_drop", "proj_drop"), _DROPOUT),
    **dict.fromkeys(("pos_drop", "patch_drop", "head_drop"), _DROPOUT),
}
"""Classes of the parts of a network by their names; timm's code calls no other part."""

_OWN_CODE = ("patch_embed", "rope", "rel_pos", "shared_rel_pos")
"""Parts of which the methods use the output only, whatever they are made of."""


class Part(NamedTuple):
    """A part of a network that the methods have rules for.

    Attributes:
        path: its name in the network; empty for the network itself.
        module: the part.
        allowed: classes that it may have.
        cls: the class that it has.
    """

    path: str
    module: nn.Module
    allowed: Collection[type]
    cls: type


def known_parts(network: nn.Module) -> list[Part]:
    """List the network and its parts, each before its own parts."""
    parts = [Part("", network, NETWORKS, base_class(network))]
    owners = {""}
    for path, module in network.named_modules(remove_duplicate=False):
        owner, _, name = path.rpartition(".")
        allowed = _CLASSES.get(name)
        if name.isdigit():
            allowed = _HEAD_LAYER if path.startswith("head.") else BLOCKS
        if owner in owners and allowed is not None:
            parts.append(Part(path, module, allowed, base_class(module)))
            if name not in _OWN_CODE:
                owners.add(path)
    return parts


def class_names(parts: Iterable[Part], classes: Collection[type]) -> str:
    """Return the names of those of the classes that parts have, joined by a comma if there are several.

    Norms of queries and keys are left out: they belong to the attention.
    """
    found = [part for part in parts if part.cls in classes and not part.path.endswith(("q_norm", "k_norm"))]
    return ", ".join(sorted({part.cls.__name__ for part in found}))


def base_class(module: nn.Module) -> type:
    """Return the class of a module, without ``torch.nn.utils.parametrize``, which changes how its weights are made."""
    # Asked of every part of a network; torch's own function takes microseconds for each.
    return type_before_parametrizations(module) if "parametrizations" in module._modules else type(module)


def find_fault(network: nn.Module, parts: Iterable[Part]) -> str | None:
    """Return what keeps the rules of the methods from holding for a network of these parts, or None."""
    paths: dict[nn.Module, str] = {}
    for part in parts:
        if reason := _class_fault(part) or _code_fault(part):
            return f"{part.path or 'it'} {reason}"
        earlier = paths.setdefault(part.module, part.path)
        if earlier != part.path and any(True for _ in part.module.parameters()):
            return f"{part.path} is {earlier} a second time; replace it by a copy.deepcopy of it"
    return find_tensor_fault(network)


def find_tensor_fault(network: nn.Module) -> str | None:
    """Return which tensor of a network is none that methods can compute with, or None."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and (reason := _tensor_fault(tensor)):
                    return f"{path_of(module, network)}.{name} {reason}".removeprefix(".")
    return None


def find_wrapper_fault(network: nn.Module) -> str | None:
    """Return which part of a network is wrapped by adapters of peft, by FSDP or by ``torch.compile``, or None."""
    for module in network.modules():
        if reason := _wrapper_fault(module):
            return f"{path_of(module, network) or 'it'} {reason}"
    return None


def path_of(part: nn.Module, network: nn.Module) -> str:
    """Return the path of a part, empty for the network itself. Paths of all parts cost as much as checks of them."""
    return next(path for path, module in network.named_modules() if module is part)


def _wrapper_fault(module: nn.Module) -> str | None:
    cls: type = type(module)
    if reason := _wrapper_class_fault(cls):
        return reason
    if module._compiled_call_impl is not None:
        return "was compiled in place; give copy.deepcopy(model), which is not compiled"
    if module._modules.get("_orig_mod") is not None:
        return "was compiled; give the network as it was before torch.compile (its _orig_mod)"
    return None


@lru_cache(maxsize=1024)
def _wrapper_class_fault(cls: type) -> str | None:
    if any(base.__module__.startswith("peft.") for base in cls.__mro__):
        return f"is a {cls.__name__} of peft; merge the adapters first: model.merge_and_unload()"
    if any(base.__name__ in ("FullyShardedDataParallel", "FSDPModule") for base in cls.__mro__):
        return "has sharded weights (FSDP); gather them in a network that is not sharded"
    return None


def _class_fault(part: Part) -> str | None:
    if part.cls in part.allowed:
        return None
    names = " or ".join(dict.fromkeys(known.__name__ for known in part.allowed))
    fault = f"is {part.cls.__module__}.{part.cls.__qualname__}, but the methods have rules for {names} only"
    if nn.Linear in part.allowed and part.allowed is not _HEAD_LAYER:
        fault += "; merge the adapters first, or take the network as it was before quantization"
    return fault


def _code_fault(part: Part) -> str | None:
    """Return how the code of one module differs from that of its class."""
    own = vars(part.module)
    if not (functions := _function_names(part.cls)).isdisjoint(own):
        for name in functions & own.keys():
            if callable(own[name]):
                return f"has a {name} of its own in place of that of {part.cls.__name__}; delete it"
    if own.get("inplace", False) and not part.path.startswith("head"):
        return "overwrites its input; set inplace=False"
    return None


@lru_cache(maxsize=1024)
def _function_names(cls: type) -> frozenset[str]:
    return frozenset(name for name in dir(cls) if callable(getattr(cls, name, None)))


_TENSORS = (nn.Parameter, Tensor, getattr(nn, "Buffer", Tensor))


def _tensor_fault(tensor: Tensor) -> str | None:
    if tensor.is_inference():
        return "was made under torch.inference_mode; make the network outside of it, or give copy.deepcopy(model)"
    if type(tensor) not in _TENSORS:
        return f"is a {type(tensor).__name__}; give ordinary tensors, neither quantized nor sharded"
    return None
