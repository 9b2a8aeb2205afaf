"""The network that a weights file fits."""

from dataclasses import dataclass, replace
from typing import Any, get_args

import timm
from torch import nn

from pipeline.explain.checkpoint.conversion import ACTIVATIONS, describe_conversion, grid_side, require_whole_patches
from pipeline.explain.checkpoint.convert import convert
from pipeline.explain.checkpoint.derive import derive_config
from pipeline.explain.checkpoint.difference import StateDict, printable
from pipeline.explain.checkpoint.layout import Layout
from pipeline.explain.checkpoint.model_config import FILE, ModelConfig
from pipeline.explain.checkpoint.open_clip_config import OpenClipConfig
from pipeline.explain.checkpoint.preprocessor import FILE as PREPROCESSOR
from pipeline.explain.checkpoint.preprocessor import images_beside
from pipeline.explain.checkpoint.recognize import Renamed, recognize
from pipeline.explain.checkpoint.transformers_config import Facts, TransformersConfig
from pipeline.explain.checkpoint.weights_file import read_weights
from pipeline.explain.description import describe
from pipeline.explain.head_modules import TokenAndMean
from pipeline.explain.module_classes import NETWORKS, base_class
from schemas.errors import UsageError
from schemas.model import ConversionRecord
from schemas.run import GlobalPool

_Mlp: type[nn.Module] = timm.layers.mlp.Mlp


@dataclass(frozen=True)
class _Network:
    """How to build the network that weights are of, but for the pooling.

    Attributes:
        config: the architecture.
        arguments: of its constructor.
        classes: length of the logits, or 0 where the weights have no classifier; None is that of the architecture.
        epsilon: of all norms, where it is not the architecture's.
    """

    config: ModelConfig
    arguments: dict[str, Any]
    classes: int | None
    epsilon: float | None

    def build(self, read_out: str | None, meta: bool = True) -> nn.Module:
        """Create the network.

        Args:
            read_out: pooling in timm's terms, or ``token+mean``; None is that of the architecture.
            meta: without memory for its weights.
        """
        both = read_out == "token+mean"
        pool = {} if read_out is None else {"global_pool": "token" if both else read_out}
        classes = {} if self.classes is None else {"num_classes": self.classes}
        create = self.config.skeleton if meta else self.config.build
        network: Any = create(**self.arguments | classes | pool)
        for module in network.modules():
            if self.epsilon is not None and isinstance(module, nn.LayerNorm):
                module.eps = self.epsilon
        if both:
            network.global_pool, network.fc_norm = "", TokenAndMean(network.num_prefix_tokens)
            if isinstance(network.head, nn.Linear):
                device = network.head.weight.device
                network.head = nn.Linear(2 * network.embed_dim, network.head.out_features, device=device)
        return network


def load_checkpoint(
    config: ModelConfig,
    path: str,
    read_out: str | None,
    image_size: int | None = None,
    key: str | None = None,
    has_head: bool = False,
) -> tuple[nn.Module, ConversionRecord | None]:
    """Build the network that a weights file is of, and load the file.

    The number of classes is the file's; a file without a classifier gives a network without one. A read-out that is not
    given is taken from the tensors if only one has them.

    Args:
        config: the architecture.
        path: weights file.
        read_out: pooling in timm's terms; None where neither the user nor ``config.json`` gives it.
        image_size: height and width in pixels; positions are resampled if the file is for another size. None is that
            of the architecture, and then the file has to be for it.
        key: name of the state dict in a file that has several.
        has_head: a head file will set the read-out.

    Returns:
        The network, and how the names in the file became timm's; None if they were.

    Raises:
        UsageError: the file cannot be read, is of another network, or fits several read-outs.
        UnsupportedModel: the architecture cannot be explained.
    """
    weights = read_weights(path, key)
    renamed = recognize(weights, path)
    facts = _facts_beside(path, renamed.layout)
    if renamed.layout is not None or renamed.weights.keys() == weights.keys():
        return fit(config, renamed, facts, path, read_out, image_size, has_head)
    try:
        return fit(config, renamed, facts, path, read_out, image_size, has_head)
    except UsageError as refusal:
        try:  # filters of timm may know the prefix
            return fit(config, Renamed(weights, frozenset(weights)), facts, path, read_out, image_size, has_head)
        except UsageError:
            raise refusal from None


def _facts_beside(path: str, layout: Layout | None) -> Facts:
    """Return what the config of the layout's library, beside the file, says."""
    if layout is None:
        return Facts()
    if layout.name.startswith("open_clip"):
        config = OpenClipConfig.beside(path)
        return config.facts if config else Facts()
    return TransformersConfig.beside(path)


def derive_transformers(path: str, key: str | None = None) -> ModelConfig:
    """Describe the network of a file with the ``config.json`` of transformers beside it.

    Args:
        path: weights file.
        key: see ``load_checkpoint``.

    Raises:
        UsageError: there is not all that is needed.
    """
    given, images = recognize(read_weights(path, key), path), images_beside(path)
    if images is None:
        raise UsageError(
            f"{path}: has no {PREPROCESSOR} beside it, which says how its images are normalized; get that file, or "
            "name a network of timm by --model, and give this file by --checkpoint"
        )
    return derive_config(given, TransformersConfig.beside(path), path, images)


def fit(
    config: ModelConfig,
    given: Renamed,
    facts: Facts,
    source: str,
    read_out: str | None = None,
    image_size: int | None = None,
    has_head: bool = False,
    share: bool = False,
) -> tuple[nn.Module, ConversionRecord | None]:
    """Build the network that weights are of, and load them. See ``load_checkpoint``.

    Args:
        config: the architecture.
        given: the weights.
        facts: what is known of the network beyond its weights.
        source: of the weights, for error messages.
        read_out: see ``load_checkpoint``.
        image_size: see ``load_checkpoint``.
        has_head: see ``load_checkpoint``.
        share: take the tensors themselves, in their precision, instead of copies.
    """
    layout, classifier = given.layout, _classifier_name(config)
    if layout is not None and classifier != "head":  # layouts name it as vision transformers do
        names = {f"head.{kind}": f"{classifier}.{kind}" for kind in ("weight", "bias")}
        given = replace(given, weights={names.get(name, name): tensor for name, tensor in given.weights.items()})
    arguments = dict(layout.arguments) if layout else {}
    if image_size is not None:
        require_whole_patches(config.skeleton(), image_size)
        arguments["img_size"] = image_size
    read_out = _read_out(given, read_out, source)
    classes = _number_of_classes(config, given, source)
    epsilon = (facts.epsilon or layout.epsilon) if layout else None
    if layout is not None:
        network = _Network(config, arguments, classes[0], epsilon).build(read_out)
        _check_heads(network, facts, source)
        arguments |= _activation(config, network, facts.activation, layout.activation, source)

    networks = [_Network(config, arguments, count, epsilon) for count in classes]
    fitting: dict[str | None, tuple[_Network, StateDict]] = {}
    for name in [read_out] if read_out else _read_outs(networks[0]):
        for network_of in networks:
            try:
                skeleton = network_of.build(name)
            except UsageError:
                if read_out:
                    raise
                continue  # the architecture has no such read-out
            converted, difference = convert(given.weights, skeleton, config.architecture, image_size is not None)
            if not len(difference):
                fitting[name] = network_of, converted
    if not fitting or (len(fitting) > 1 and not has_head):
        raise _refusal(config, source, given, networks[0], read_out, [name or "" for name in fitting], has_head)
    name, (network_of, converted) = next(iter(fitting.items()))
    model: Any = network_of.build(name, meta=False)
    try:
        model.load_state_dict(converted, assign=share)
    except RuntimeError as error:  # such as sparse or quantized tensors
        reason = str(error).strip().split("\n")[-1].strip()
        raise UsageError(f"{source}: cannot be loaded ({reason}); save plain tensors as .safetensors") from None
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise UsageError(
                f"{source}: {name} has values that are not finite; take a checkpoint from before it diverged"
            )
    if layout is not None and isinstance(head := model.get_classifier(), nn.Linear):
        head.projects = layout.projects  # type: ignore[assignment]
    if layout is not None and layout.normalization and config.images is None:
        mean, std = layout.normalization
        model.pretrained_cfg = getattr(model, "pretrained_cfg", {}) | {"mean": mean, "std": std}
    return model, describe_conversion(given, model, converted)


def _read_outs(network_of: _Network) -> tuple[str | None, ...]:
    """Return the read-outs that a network may have been trained with; other networks than transformers have one."""
    return get_args(GlobalPool) if base_class(network_of.build(None)) in NETWORKS else (None,)


def _read_out(given: Renamed, asked: str | None, path: str) -> str | None:
    """Return the read-out, as far as the layout or the user gives it."""
    own = given.layout.read_out_of(given.weights) if given.layout else None
    if own and "head.weight" in given.weights and asked not in (None, own):
        raise UsageError(f"{path}: its classifier reads {own}, not {asked}; leave out --global-pool")
    return asked or own


def _number_of_classes(config: ModelConfig, given: Renamed, path: str) -> list[int | None]:
    """Return the numbers of classes that a network of the weights may have; None is that of the architecture."""
    head = given.weights.get(f"{_classifier_name(config)}.weight")
    if head is None or head.ndim < 2:
        return [0] if given.layout else [None, 0]
    if config.classes not in (None, len(head)):
        named = " and ".join(f"{name} is {count}" for name, count in config.class_counts.items())
        raise UsageError(f"{path}: its classifier has {len(head)} classes, but in {FILE} {named}; correct {FILE}")
    return [len(head)]


def _classifier_name(config: ModelConfig) -> str:
    """Return the path of the classifier of an architecture, as timm states it; of several the first."""
    known = timm.get_pretrained_cfg(config.architecture.partition(".")[0])
    names = getattr(known, "classifier", None) or "head"
    return str(names if isinstance(names, str) else names[0])


def _check_heads(network: Any, facts: Facts, path: str) -> None:
    """Compare numbers of heads, which weights do not show."""
    blocks = getattr(network, "blocks", None)
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None
    if heads and facts.heads not in (None, heads):
        raise UsageError(
            f"{path}: has {facts.heads} heads by its {FILE}, {type(network).__name__} has {heads}; "
            "name an architecture of as many heads"
        )


def _activation(config: ModelConfig, network: Any, stated: str | None, usual: str | None, path: str) -> dict[str, str]:
    """Return the argument that gives a network the activation of the weights, where it has another.

    Args:
        config: the architecture.
        network: of it.
        stated: activation by a ``config.json``, in timm's terms.
        usual: activation of the layout where nothing states it.
        path: of the weights.

    Raises:
        UsageError: timm has a network with that activation under another name.
    """
    blocks = getattr(network, "blocks", None)
    mlp = getattr(blocks[0], "mlp", None) if blocks else None
    own = ACTIVATIONS.get(type(getattr(mlp, "act", None)).__name__)
    wanted = stated or (usual if isinstance(mlp, _Mlp) else None)
    if own is None or wanted in (None, own):
        return {}
    assert wanted is not None
    source = "by the config beside it" if stated else "unless a config beside it says otherwise"
    name = config.architecture.partition(".")[0]
    twin = name.replace("_quickgelu", "") if own == "quick_gelu" else name.replace("_clip_", "_clip_quickgelu_")
    if "quick_gelu" in (own, wanted) and twin != name and timm.is_model(twin):
        raise UsageError(f"{path}: its activation is {wanted} {source}, that of {name} is {own}; name {twin}")
    if not isinstance(mlp, _Mlp):
        raise UsageError(f"{path}: its activation is {wanted} {source}, that of {name} is {own}; name another network")
    return {"act_layer": wanted}


def _refusal(
    config: ModelConfig,
    path: str,
    given: Renamed,
    network_of: _Network,
    read_out: str | None,
    fitting: list[str],
    has_head: bool,
) -> UsageError:
    """Return the refusal of weights that fit no read-out, or several."""
    network = network_of.build(read_out)
    without_classifier = "head.weight" not in given.weights
    if network_of.classes != 0 and not has_head and not (fitting and without_classifier):
        describe(network)
    if fitting:
        lacks = "it has no classifier, and " * without_classifier
        head = ", or add a head file by --head FILE" * without_classifier
        return UsageError(
            f"{path}: {lacks}fits {config.architecture} with the read-outs {' and '.join(fitting)}, which give "
            f"different maps; say which by --global-pool, or by global_pool in a {FILE} beside it{head}"
        )
    _, difference = convert(given.weights, network, config.architecture, resample=False)
    layout = f" under the names of {given.layout.name}" if given.layout else ""
    hint = _hint(given.weights, network)
    return UsageError(f"{path}: is not a checkpoint of {config.architecture}{layout}: {difference}{hint}")


def _hint(weights: StateDict, network: Any) -> str:
    """Return what to do where the network's tensors have a prefix, a classifier is lacking, or the size is another."""
    expected = network.state_dict()
    for prefix in {name.partition(".")[0] for name in weights}:
        count = sum(f"{prefix}.{name}" in weights for name in expected)
        if 2 * count > len(expected):
            return f"; {count} of them are there under {printable(prefix)}.: add --checkpoint-key {printable(prefix)}"
    if "head.weight" not in weights and "head.weight" in expected:
        return "; it has no classifier, so there is no class to explain: add a head file by --head FILE"
    embed: Any = getattr(network, "patch_embed", None)
    if getattr(embed, "grid_size", None) is None:
        return ""
    sides = [
        grid_side(name, weights[name], expected[name], embed.grid_size) for name in weights.keys() & expected.keys()
    ]
    side = max(sides, default=0)
    if not side:
        return ""
    pixels, (height, width) = side * int(embed.patch_size[0]), embed.img_size
    resampled = f"--image-size {height} to resample its positions" if height == width else "the size of the network"
    return (
        f"; it is for images of {pixels} × {pixels} pixels, the network for {height} × {width}: "
        f"add --image-size {pixels}, or {resampled}"
    )
