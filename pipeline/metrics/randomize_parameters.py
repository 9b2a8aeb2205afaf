"""A network that forgets what it has learned, from the classifier down to the patches."""

from collections.abc import Iterator

import torch
from torch import nn

from pipeline.utils.random import generator

_CLASSIFIER = ("head", "head_dist")
_READOUT = ("norm", "fc_norm", "attn_pool")


def groups(model: nn.Module) -> dict[str, list[str]]:
    """Names of all parameters, in the order of forgetting: classifier, read-out, blocks from the last, embedding.

    Every parameter stands in one group, bare ones as well (class token, registers, positions, layer scale); of groups
    only those that have any.
    """
    blocks = len(list(model.get_submodule("blocks").children()))
    found: dict[str, list[str]] = {name: [] for name in ("classifier", "readout")}
    found |= {f"block {index}": [] for index in reversed(range(blocks))} | {"embedding": []}
    for name, _ in model.named_parameters():
        first, _, rest = name.partition(".")
        if first == "blocks":
            group = f"block {rest.partition('.')[0]}"
        else:
            group = "classifier" if first in _CLASSIFIER else "readout" if first in _READOUT else "embedding"
        found[group].append(name)
    return {group: names for group, names in found.items() if names}


def forgetting(model: nn.Module, seed: int) -> Iterator[str]:
    """Randomise a network in place, group after group; the name of each when it is done.

    A parameter becomes normal noise of its own mean and standard deviation, from its name and the seed alone: there is
    no initialiser of a bare parameter to go back to, and activations keep their scale. A parameter whose values are
    all equal has learned nothing, and stays.
    """
    parameters = dict(model.named_parameters())
    for group, names in groups(model).items():
        for name in names:
            values = parameters[name].detach()
            noise = torch.from_numpy(generator("faith forget", name, seed).standard_normal(values.shape))
            mean, spread = values.double().mean(), values.double().std(correction=0)
            values.copy_(mean + spread * noise.to(values.device))
        yield group
