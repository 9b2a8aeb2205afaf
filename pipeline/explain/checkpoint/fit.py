"""The network that a weights file fits."""

import math
import os
from typing import Any, get_args

from torch import Tensor, nn

from pipeline.explain.anatomy import describe
from pipeline.explain.checkpoint.layouts import StateDict, convert, without_prefix
from pipeline.explain.checkpoint.model_config import FILE, ModelConfig
from pipeline.explain.checkpoint.weights_file import read_weights
from schemas.errors import UsageError
from schemas.run import GlobalPool


def load_checkpoint(config: ModelConfig, path: str, read_out: str | None, has_head: bool = False) -> nn.Module:
    """Build the network that a weights file is of, and load the file.

    The number of classes is the file's. A read-out that is not given is taken from the tensors if only one has them.
    A head file that comes later sets the read-out, and the file needs no classifier.

    Args:
        config: the architecture.
        path: weights file.
        read_out: pooling in timm's terms; None where neither the user nor ``config.json`` gives it.
        has_head: whether a head file will replace the classifier.

    Raises:
        UsageError: the file cannot be read, is of another network, or fits several read-outs.
        UnsupportedModel: the architecture cannot be explained.
    """
    weights = read_weights(path)
    arguments = _number_of_classes(config, weights, path) or ({"num_classes": 0} if has_head else {})
    fitting: dict[str, StateDict] = {}
    for name in [read_out] if read_out else get_args(GlobalPool):
        try:
            network = config.skeleton(**arguments, global_pool=name)
        except UsageError:
            if read_out:
                raise
            continue  # the architecture has no such read-out
        converted, difference = convert(weights, network, config.architecture)
        if not len(difference):
            fitting[name] = converted
    if not fitting or (len(fitting) > 1 and not has_head):
        network = config.skeleton(**arguments, **({"global_pool": read_out} if read_out else {}))
        if not has_head:
            describe(network)
        if fitting:
            raise UsageError(
                f"{path}: fits {config.architecture} with the read-outs {' and '.join(fitting)}, which give different "
                f"maps; say which by --global-pool, or by global_pool in a {FILE} beside it"
            )
        _, difference = convert(weights, network, config.architecture)
        hint = _hint(weights, network, config, path)
        raise UsageError(f"{path}: is not a checkpoint of {config.architecture}: {difference}{hint}")
    name, converted = next(iter(fitting.items()))
    model = config.build(**arguments, global_pool=name)
    try:
        model.load_state_dict(converted)
    except RuntimeError as error:  # such as sparse or quantized tensors
        reason = str(error).strip().split("\n")[-1].strip()
        raise UsageError(f"{path}: cannot be loaded ({reason}); save plain tensors as .safetensors") from None
    return model


def _number_of_classes(config: ModelConfig, weights: StateDict, path: str) -> dict[str, int]:
    head = without_prefix(weights).get("head.weight")
    if head is None or head.ndim != 2:
        return {}
    if config.classes not in (None, len(head)):
        named = " and ".join(f"{name} is {count}" for name, count in config.class_counts.items())
        raise UsageError(f"{path}: its classifier has {len(head)} classes, but in {FILE} {named}; correct {FILE}")
    return {"num_classes": len(head)}


def _hint(weights: StateDict, network: nn.Module, config: ModelConfig, path: str) -> str:
    """Return what to do where the file has no classifier, or is for images of another size."""
    names, expected = without_prefix(weights), network.state_dict()
    if "head.weight" not in names and "head.weight" in expected:
        return "; it has no classifier, so there is no class to explain: add a head file by --head FILE"
    embed: Any = network.patch_embed
    sides = [_side(name, names[name], expected[name], embed.grid_size) for name in names.keys() & expected.keys()]
    side = max(sides, default=0)
    if not side:
        return ""
    pixels, (height, width) = side * int(embed.patch_size[0]), embed.img_size
    file = os.path.join(os.path.dirname(path), FILE)
    step = (
        f"set model_args.img_size to {pixels} in {FILE}"
        if config.images is not None
        else f'write {{"architecture": "{config.architecture}", "model_args": {{"img_size": {pixels}}}}} to {file}'
    )
    return f"; it is for images of {pixels} × {pixels} pixels, the network for {height} × {width}: {step}"


def _side(name: str, given: Tensor, expected: Tensor, grid: tuple[int, int]) -> int:
    """Return the side of the square grid that a table of positions is for; 0 where it is none, or of the same size."""
    rows, columns = grid
    if name == "pos_embed" and given.ndim == expected.ndim == 3 and given.shape[1] != expected.shape[1]:
        return _root(given.shape[1] - expected.shape[1] + rows * columns)
    if name.endswith("relative_position_bias_table") and given.shape[0] != expected.shape[0]:
        offsets = _root(given.shape[0] - expected.shape[0] + (2 * rows - 1) * (2 * columns - 1))
        return (offsets + 1) // 2 if offsets % 2 else 0
    return 0


def _root(number: int) -> int:
    """Return the square root of a square number, otherwise 0."""
    root = math.isqrt(max(number, 0))
    return root if root * root == number else 0
