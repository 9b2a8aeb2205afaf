"""Base class of attribution methods: an immutable set of options with one function, ``compute``."""

import math
from abc import ABC, abstractmethod
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from torch import Tensor

from pipeline.explain.capture import ORDINARY, BackwardPass, Capture
from pipeline.explain.network import LAST, FeatureLayer, Network, Requirement
from schemas.errors import UsageError


@dataclass(frozen=True)
class Method(ABC):
    """Base class of all methods. To add one: subclass it in a new file and decorate with ``@methods.register``.

    The class docstring gives formula, cost and source; its first line is the summary in every table.

    Class attributes:
        base_name: name without options.
        kind: ``attribution`` or ``control`` (a baseline that any method should beat).
        class_specific: whether the map depends on the target class.
        multi_target: whether one computation gives the maps of any number of classes.
        paper: its source.
        provenance: name of the design that it follows, where the paper leaves details open; goes into ``run.json``.
        cost: in forwards of the same batch, beyond the shared one, as text for tables.
        default: whether a run that names no methods includes it; False where it costs many forwards.
        extra_outputs: names of the numbers that it reports beside each map, in ``trace.extra_outputs``.
        presets: sets of options, by name.
        hidden_options: options that are not part of the name.
        later_options: options that ``run.json`` leaves out where all of them have their defaults, so that the hash of
            a run without them stays what it was before there were any.
        option_aliases: other names of options in a spec, and the options.
        requirement: what it needs of a network; see ``requires``.
    """

    base_name: ClassVar[str]
    kind: ClassVar[str] = "attribution"
    class_specific: ClassVar[bool] = True
    multi_target: ClassVar[bool] = False
    paper: ClassVar[str]
    provenance: ClassVar[str] = ""
    cost: ClassVar[str]
    default: ClassVar[bool] = True
    extra_outputs: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    hidden_options: ClassVar[tuple[str, ...]] = ()
    later_options: ClassVar[tuple[str, ...]] = ()
    option_aliases: ClassVar[dict[str, str]] = {}
    requirement: ClassVar[Requirement] = Requirement.ATTENTION

    def __post_init__(self) -> None:
        """Refuse options of the wrong type.

        Raises:
            UsageError: one has it; the message lists the allowed values.
        """
        kinds = option_types(type(self))
        for option, value in self.options().items():
            kind = kinds[option]
            if get_origin(kind) is Literal:
                valid, allowed = value in get_args(kind), ", ".join(map(str, get_args(kind)))
            elif kind in (float, float | None):
                number = type(value) in (int, float) and math.isfinite(value)
                valid, allowed = number or (value is None and kind is not float), "a finite number"
            else:
                valid, allowed = type(value) is kind, _TYPE_NAMES.get(kind, kind.__name__)
            if not valid:
                raise UsageError(f"{self.base_name}: {option} is {value!r}; it can be {allowed}")

    @property
    def name(self) -> str:
        """Name of the method with its options: ``base_name``, then ``_value`` of each that is not the default.

        A number follows the name of its option; a boolean is the name of its option, after ``no_`` if it is False.
        """
        changed = self.options(changed=True).items()
        return "_".join(
            [self.base_name, *(_suffix(*option) for option in changed if option[0] not in self.hidden_options)]
        )

    @property
    def spec(self) -> str:
        """Text from which ``methods.parse`` makes this method: ``base_name:option=value``, changed options only."""
        return ":".join([self.base_name, *(f"{name}={value}" for name, value in self.options(changed=True).items())])

    def options(self, changed: bool = False) -> dict[str, Any]:
        """Return all options by name, or only those that differ from the default."""
        values = {f.name: getattr(self, f.name) for f in self.option_fields()}
        if not changed:
            return values
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        return {name: value for name, value in values.items() if value != defaults.get(name)}

    @classmethod
    def option_fields(cls) -> "list[Field[Any]]":
        """Return the options as fields: the method's own first, then those of its base."""
        return sorted(fields(cls), key=lambda option: option.kw_only is True)

    @property
    def recorded_options(self) -> dict[str, Any]:
        """Options as ``run.json`` records them; see ``later_options``. None is left out."""
        later = set(self.later_options).isdisjoint(self.options(changed=True))
        left_out = self.later_options if later else ()
        return {name: value for name, value in self.options().items() if value is not None and name not in left_out}

    @property
    def trained_on(self) -> str | None:
        """Hash of the weights of the model that its artifact was trained for; None for a method that fits any model."""
        return None

    @property
    def artifact_hash(self) -> str | None:
        """SHA-256 of its artifact; None for a method without one."""
        return None

    @property
    def design(self) -> str:
        """Provenance of this instance, read from its artifact where it has one."""
        return self.provenance

    @property
    def backward_pass(self) -> BackwardPass:
        """The backward pass of its gradients, if it takes any."""
        return ORDINARY

    @property
    def requires(self) -> tuple[Requirement, ...]:
        """What it needs of a network with these options."""
        return (self.requirement,)

    @property
    def layer_name(self) -> str | None:
        """Name of the feature layer that it reads; None for a method that reads none."""
        return LAST if self.requires == (Requirement.FEATURES,) else None

    def needs(self, anatomy: Any) -> Capture:
        """Return what the trace must record for this method."""
        return Capture.LAST_BLOCK

    def first_block(self, anatomy: Any) -> int:
        """Return the index of the first block that it reads; tokens, attention and graph are recorded from there on."""
        return 0

    @classmethod
    def default_for(cls, anatomy: Any) -> Self:
        """Return the method as a run computes it that names no methods."""
        return cls()

    def unsupported(self, anatomy: Any) -> str | None:
        """Return the reason why this method is not defined for a network that offers what it requires, or None.

        Args:
            anatomy: an ``Anatomy`` where attention or layers are required, otherwise any ``Network``.
        """
        return None

    def refusal(self, anatomy: Network) -> str | None:
        """Return the reason why this method cannot be computed for a network, or None if it can."""
        for need in self.requires:
            if reason := anatomy.missing.get(need):
                return f"it needs {NEEDS[need]}: {reason}"
        layer = self.layer_name
        if layer is not None and anatomy.layer(layer) is None:
            return f"there is no layer {layer}; there are {', '.join(each.name for each in anatomy.features)}"
        return self.unsupported(anatomy)

    def grid(self, anatomy: Network) -> tuple[int, int]:
        """Return rows and columns of its maps."""
        layer = self.layer_name and anatomy.layer(self.layer_name)
        return layer.grid if isinstance(layer, FeatureLayer) else anatomy.grid

    @abstractmethod
    def compute(self, trace: Any, targets: Tensor) -> Tensor:
        """Compute raw maps. Runs without gradient mode.

        Args:
            trace: a recorded forward of B images: a ``Trace`` where attention or layers are required, otherwise a
                ``NetworkTrace``.
            targets: int64 [B, K], the classes to explain. K is 1 unless ``multi_target``; ignored unless
                ``class_specific``.

        Returns:
            [B, K, h, w] on the patch grid, without any normalization; K is 1 unless ``class_specific``.
        """


@cache
def option_types(method: type[Method]) -> dict[str, Any]:
    """Return the types of the options of a class of methods, and of its other annotated attributes."""
    return get_type_hints(method)


NEEDS = {
    Requirement.IMAGES: "logits of images",
    Requirement.FEATURES: "a grid of features in front of the read-out",
    Requirement.ATTENTION: "attention of every token to every token in every block",
    Requirement.LAYERS: "rules for every layer",
}
"""What is required, in words."""


def readout_fault(anatomy: Network) -> str | None:
    """Return why a method that runs the read-out on other features is not defined for a network; None if it is."""
    if anatomy.readout != "other":
        return None
    reason = anatomy.features[0].no_readout or "its weights have no values"
    return f"what follows its last features cannot be run apart from the network: {reason}"


def constant_probability_fault(anatomy: Network) -> str | None:
    """Return why a method of probabilities is not defined for a model of one class; None if it is."""
    if not anatomy.has_constant_probability:
        return None
    return (
        "the softmax of its only class is always 1, which would make every map constant; give the head further classes "
        "to compare with, or the activation sigmoid"
    )


_TYPE_NAMES: dict[Any, str] = {bool: "True or False", int: "a whole number", str: "text"}


def _suffix(option: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return option if value else f"no_{option}"
    return f"{option}{value}"
