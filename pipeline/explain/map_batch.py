"""Maps of a batch of images by method, which of them are degenerate, and how far they are from exact ones."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.explain.attention_capture import upcast
from pipeline.utils.isolated import is_isolated
from schemas.layout import Flag


class MapBatch(dict[str, Tensor]):
    """Maps [B, K, h, w] by the name of their method.

    Attributes:
        logits: [B, C] of the network.
        extra_outputs: numbers that methods report beside each map, [B, K] by ``<method>_<output>``.
    """

    logits: Tensor
    extra_outputs: dict[str, Tensor]

    def flags(self, name: str) -> Tensor:
        """Return a ``Flag`` for each map of a method, int8 [B, K]: whether it is degenerate."""
        return flags(self[name])


def flags(maps: Tensor) -> Tensor:
    """Return a ``Flag`` for each map: whether it is constant, not finite, or shows a few single patches only.

    Args:
        maps: [..., h, w], raw.

    Returns:
        int8 [...] of ``Flag``.
    """
    patches = maps.flatten(-2)
    constant = (patches == patches[..., :1]).all(-1)
    not_finite = ~patches.isfinite().all(-1)
    isolated = torch.from_numpy(is_isolated(upcast(maps).detach().cpu().numpy())).to(maps.device)
    shown = torch.where(isolated, int(Flag.ISOLATED), constant.int())
    return torch.where(not_finite, int(Flag.NOT_FINITE), shown).to(torch.int8)


def precision_error(maps: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute the error of maps against exact ones: max |difference| / max |exact|, median over the maps of a method.

    Args:
        maps: [B, K, h, w] by method.
        exact: the same methods and shapes. Pairs where a map is not finite or the exact one is 0 are left out.
    """
    errors = {}
    for name, values in maps.items():
        largest = exact[name].abs().amax((2, 3))
        ratio = (values - exact[name]).abs().amax((2, 3)) / largest
        ratio = ratio[ratio.isfinite()]
        if len(ratio):
            errors[name] = float(ratio.median())
    return errors
