"""``config.json`` as timm saves it: the architecture of a network, and how its images are prepared."""

import inspect
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, cast

import timm
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.explain.checkpoint.beside import read_beside
from schemas.base import Record
from schemas.errors import UsageError
from schemas.text import suggest

FILE = "config.json"

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]
_MAX_DEPTH = 1000
"""Most blocks of a network; each takes memory before any weight is read."""
_OPTIONS_OF_TIMM = frozenset(inspect.signature(timm.create_model).parameters) | {"device", "dtype", "features_only"}
"""Arguments that decide where timm takes weights from and where it puts them, not what the network is."""


class ImageConfig(Record):
    """Preparation of images, and classes: the fields of timm's ``pretrained_cfg`` that decide a result.

    Attributes:
        input_size: channels, height and width.
        fixed_input_size: whether the network is built for that size.
        interpolation: of the resize.
        crop_pct: crop fraction of the evaluation transform.
        crop_mode: its crop mode.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
        num_classes: length of the logits.
        label_names: names of the classes.
        global_pool: read-out, where old files have it here.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_size: tuple[_Count, _Count, _Count] | None = None
    fixed_input_size: bool | None = None
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"] | None = None
    crop_pct: _Positive | None = None
    crop_mode: str | None = None
    mean: Annotated[tuple[_Finite, ...], Field(min_length=1)] | None = None
    std: Annotated[tuple[_Positive, ...], Field(min_length=1)] | None = None
    num_classes: int | None = None
    label_names: list[str] | None = None
    global_pool: str | None = None

    @classmethod
    def of_model(cls, name: str) -> "ImageConfig":
        """Return what timm knows of the images of a model, without the classes.

        Raises:
            UsageError: timm has no such model.
        """
        try:
            known = timm.get_pretrained_cfg(name)
        except RuntimeError as error:
            raise UsageError(f"{name}: {error}; see timm.list_pretrained()") from None
        fields = set(cls.model_fields) - {"num_classes", "label_names", "global_pool"}
        return cls(**{field: getattr(known, field) for field in fields} if known is not None else {})


class ModelConfig(Record):
    """A network as timm's ``config.json`` describes it, or a plain timm name.

    Attributes:
        architecture: timm name.
        arguments: ``model_args``, of the architecture's constructor.
        images: ``pretrained_cfg``; None for a plain name, for which timm knows it.
        num_classes: at the top level, where timm writes it.
        global_pool: at the top level, where timm writes it.
        label_names: at the top level, where timm writes it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict, alias="model_args")
    images: ImageConfig | None = Field(default=None, alias="pretrained_cfg")
    num_classes: int | None = None
    global_pool: str | None = None
    label_names: list[str] | None = None

    @classmethod
    def of_folder(cls, folder: str) -> "ModelConfig":
        """Read the ``config.json`` of a folder.

        Raises:
            UsageError: there is none, or it is not one of timm's.
        """
        path = os.path.join(folder, FILE)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}; name a folder saved by timm") from None
        config = cls.read(data, path)
        if config.images is None:  # older files have these fields at the top level
            config = config.model_copy(update={"images": ImageConfig.read(data, path)})
        if foreign := sorted(_OPTIONS_OF_TIMM & config.arguments.keys()):
            raise UsageError(f"{path}: model_args: {foreign[0]} is no argument of an architecture; remove it")
        if isinstance(depth := config.arguments.get("depth"), int) and not 1 <= depth <= _MAX_DEPTH:
            raise UsageError(f"{path}: model_args: depth {depth} is not between 1 and {_MAX_DEPTH}; correct it")
        if not timm.is_model(config.architecture):
            hint = suggest(config.architecture, timm.list_models(), 0.6)
            raise UsageError(f"{path}: architecture: timm has no model {config.architecture[:80]!r}{hint}")
        if len(pools := config.read_outs) > 1:
            raise UsageError(f"{path}: global_pool is both {' and '.join(pools)}; keep the one that the network has")
        return config

    @classmethod
    def beside(cls, file: str) -> "ModelConfig | None":
        """Return what the ``config.json`` beside a weights file says, None if there is none of timm's.

        Raises:
            UsageError: it is broken.
        """
        _, content = read_beside(file, FILE)
        return cls.of_folder(os.path.dirname(file)) if content and b'"architecture"' in content else None

    @classmethod
    def of_checkpoint(cls, file: str, name: str) -> "ModelConfig":
        """Return the network of a weights file: a model, as the ``config.json`` beside it, if timm's, describes it.

        Raises:
            UsageError: that file is broken, or of another architecture.
        """
        config = cls.beside(file)
        if config is None:
            return cls(architecture=name)
        if config.architecture.partition(".")[0] != name.partition(".")[0]:
            path = os.path.join(os.path.dirname(file), FILE)
            raise UsageError(f"{path}: is of {config.architecture}, not of {name}; name that model, or move {file}")
        own = config.images.model_dump(exclude_none=True) if config.images is not None else {}
        return config.model_copy(update={"images": ImageConfig.of_model(name).model_copy(update=own)})

    @property
    def read_out(self) -> str | None:
        """Pooling in timm's terms, where the file gives it."""
        return next(iter(self.read_outs), None)

    @property
    def read_outs(self) -> list[str]:
        """Different values of the fields that give the pooling; a valid file has at most one."""
        in_images = self.images.global_pool if self.images is not None else None
        values = (self.arguments.get("global_pool"), self.global_pool, in_images)
        return list(dict.fromkeys(str(value) for value in values if value))

    @property
    def class_counts(self) -> dict[str, int]:
        """Numbers of classes by the name of the field, the one that timm takes first."""
        counts = {
            "model_args.num_classes": self.arguments.get("num_classes"),
            "num_classes": self.num_classes,
            "pretrained_cfg.num_classes": self.images.num_classes if self.images else None,
        }
        return {name: count for name, count in counts.items() if count is not None}

    @property
    def classes(self) -> int | None:
        """Number of classes, where the file gives it."""
        return next(iter(self.class_counts.values()), None)

    def build(self, **arguments: Any) -> nn.Module:
        """Create the network with random weights.

        Args:
            arguments: of its constructor; they override those of the file.

        Raises:
            UsageError: timm cannot build it.
        """
        images = None
        if self.images is not None:
            labels = {"label_names": self.label_names} if self.label_names else {}
            classes = {} if self.classes is None else {"num_classes": self.classes}
            images = self.images.model_dump(exclude_none=True, exclude={"global_pool"}) | labels | classes
        pool = {"global_pool": self.read_out} if self.read_out else {}
        arguments = self.arguments | pool | arguments
        size = arguments.pop("img_size", None)
        try:
            return create_for_size(
                partial(timm.create_model, self.architecture, pretrained_cfg=images, **arguments), size
            )
        except Exception as error:  # whatever arguments of a stranger make of a constructor
            reason = str(error).strip().split("\n")[0]
            raise UsageError(f"{self.architecture}: timm cannot build it ({type(error).__name__}: {reason})") from error

    def skeleton(self, **arguments: Any) -> nn.Module:
        """Create the network as ``build`` does, but on the meta device, without memory for its weights."""
        with torch.device("meta"), _SkipFilling():
            return self.build(**arguments)


def create_for_size(create: Callable[..., nn.Module], size: int | tuple[int, int] | None) -> nn.Module:
    """Create a network for images of a size, and state it in its ``pretrained_cfg``.

    Args:
        create: of the architecture. It is given ``img_size``, if it has that argument; others take images of any size.
        size: of the images, in pixels; None is the network's own.
    """
    if size is None:
        return create()
    try:
        model: Any = create(img_size=size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = create()
    sides = (size, size) if isinstance(size, int) else tuple(size)
    model.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), "input_size": (3, *sides)}
    return cast(nn.Module, model)


class _SkipFilling(TorchFunctionMode):
    """Skip what fills meta tensors with values: they have none, and torch takes milliseconds for each."""

    _FILLING = frozenset(
        {
            *("uniform_", "normal_", "fill_", "zero_", "erfinv_", "mul_", "add_", "clamp_"),
            *("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "trunc_normal_"),
        }
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", None) in self._FILLING and isinstance(filled, Tensor) and filled.is_meta:
            return filled
        return func(*args, **kwargs)
