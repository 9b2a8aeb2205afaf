"""Parameter types, lists and flags that several commands share."""

import math
import re
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeVar, get_args

import click

from jobs.completion import NamesOf, all_methods, complete_comma_separated, targets_of_atlas
from pipeline.utils.local_file import read_text
from schemas.errors import UsageError
from schemas.run import Exif, GlobalPool, KeySeparator, MaskValues, TruthOrientation

FILE = click.Path(dir_okay=False)
FOLDER = click.Path(file_okay=False)
PATH_OR_URL = click.Path()
"""A file, a folder or a URL; existence is checked later."""

F = TypeVar("F", bound=Callable[..., Any])


def count_option(*flags: str, text: str, default: int | None = None, minimum: int = 1) -> Callable[[F], F]:
    """Return a flag with an integer N.

    Args:
        *flags: its names, as ``click.option`` takes them.
        text: help.
        default: shown in the help; None is none.
        minimum: smallest allowed value.
    """
    return click.option(*flags, type=click.IntRange(minimum), default=default, metavar="N", help=text)


def choice_option(flag: str, choices: Sequence[str], text: str, default: str | None = None) -> Callable[[F], F]:
    """Return a flag with a choice.

    Args:
        flag: its name.
        choices: allowed values.
        text: help.
        default: shown in the help; None is none.
    """
    return click.option(flag, type=click.Choice(choices), default=default, help=text)


def names_option(
    *flags: str, text: str, names: NamesOf, default: str | None = None, multiple: bool = False
) -> Callable[[F], F]:
    """Return a flag with comma-separated names, see ``split_names``.

    Args:
        *flags: its names, as ``click.option`` takes them.
        text: help.
        names: what the shell completes.
        default: shown in the help; None is none.
        multiple: it may be repeated.
    """
    complete = complete_comma_separated(names)
    return click.option(*flags, default=default, shell_complete=complete, metavar="A,B", help=text, multiple=multiple)


def path_option(*flags: str, metavar: str, text: str, **attributes: Any) -> Callable[[F], F]:
    """Return a flag with a path.

    Args:
        *flags: its names, as ``click.option`` takes them.
        metavar: ``FILE`` or ``DIR`` for a path of that kind; any other may be a URL, too.
        text: help.
        **attributes: ``required`` and ``multiple``, as ``click.option`` takes them.
    """
    kind = {"FILE": FILE, "DIR": FOLDER}.get(metavar, PATH_OR_URL)
    return click.option(*flags, type=kind, metavar=metavar, help=text, **attributes)


def options(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return a decorator that adds several arguments and flags, in this order."""
    return lambda function: reduce(lambda wrapped, decorator: decorator(wrapped), reversed(decorators), function)


address_option = click.option(
    "--address", metavar="local|auto|HOST:PORT", help="Ray cluster to use. Default: no Ray for up to 64 shards."
)
allow_pipe_option = click.option("--allow-pipe", is_flag=True, help="Allow shards that are shell commands (pipe:…).")
checkpoint_option = path_option(
    "--checkpoint",
    metavar="FILE",
    text="Use the weights of a file, of timm or another library: .safetensors, or of torch.save.",
)
checkpoint_key_option = click.option(
    "--checkpoint-key", metavar="KEY", help="State dict to take of a checkpoint that has several, such as teacher."
)
image_size_option = count_option(
    "--image-size", text="Height and width of the images, if not the network's own; positions are resampled."
)
global_pool_option = choice_option(
    "--global-pool",
    get_args(GlobalPool),
    "Read-out, where the weights fit several: class token, mean of the patches, or attention pooler.",
)
model_options = options(
    click.option("--model", required=True, metavar="NAME", help="A timm model, local-dir:FOLDER or hf-hub:ORG/NAME."),
    click.option("--pretrained", is_flag=True, help="Use timm's pretrained weights."),
    checkpoint_option,
    checkpoint_key_option,
    image_size_option,
    global_pool_option,
)
"""The flags of the network that images go through."""
head_option = path_option(
    "--head", metavar="FILE", text="Use the classifier of a head file instead of the network's own."
)
registers_option = path_option(
    "--registers", metavar="FILE", text="Add the test-time registers of vitatlas head registers: another network."
)
classes_option = path_option(
    "--classes",
    "classes_file",
    metavar="FILE",
    text="Class names, one a line. Default: those of the network or its head file; else class ids.",
)
methods_option = names_option(
    "--methods",
    names=all_methods,
    text="Methods, such as legrad,reciprocam:kernel=box. Default: all that cost few forwards.",
)
methods_to_add_option = names_option(
    "--methods", names=all_methods, text="Methods, such as rollout,reciprocam:kernel=box."
)
artifact_option = path_option(
    "--artifact",
    multiple=True,
    metavar="FILE",
    text="Output of vitatlas train, the weights of diffmask, pm or tscam; may be repeated.",
)
partial_option = click.option("--partial", is_flag=True, help="Use the finished shards of an unfinished atlas.")
atlases_argument = click.argument("atlases", metavar="[NAME=]ATLAS…", type=PATH_OR_URL, nargs=-1, required=True)
"""One atlas, or several that are joined; see ``Atlas.open``."""
tune_atlas_option = path_option(
    "--tune-atlas",
    "tune_atlases",
    metavar="[NAME=]ATLAS",
    multiple=True,
    text="With --tune: atlas of that split; may be repeated, as ATLAS. Default: ATLAS.",
)
tower_options = options(
    click.option(
        "--open-clip",
        metavar="NAME",
        help="Text tower: an architecture of open_clip with --weights, or local-dir:FOLDER as open_clip saves one.",
    ),
    path_option("--weights", metavar="FILE", text="With --open-clip: weights of the whole model."),
    path_option("--hugging-face", metavar="DIR", text="Text tower: folder of a CLIP or SigLIP of transformers."),
)
"""Flags of ``TextTowerSpec.of_flags``."""
truth_options = options(
    choice_option(
        "--truth-orientation",
        get_args(TruthOrientation),
        "Coordinates of the truth, where images have an EXIF orientation. Default: by their sizes, else refused.",
    ),
    choice_option(
        "--mask-values",
        get_args(MaskValues),
        "Values of PNG masks: numbers of objects (255 ignored), or a white object. Default: by mode, else refused.",
    ),
)


def _extensions(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """Return the extensions in a comma-separated list, as shards have them; None if the flag is not given."""
    if text is None:
        return None
    return tuple(name.lower().removeprefix(".") for name in split_names(text))


key_separator_option = choice_option(
    "--key-separator",
    get_args(KeySeparator),
    "Dot of a file name that ends the key of its sample: the first, as in WebDataset (default), or the last.",
)
sample_options = options(
    key_separator_option,
    click.option(
        "--image-key",
        metavar="A,B",
        callback=_extensions,
        help="Extensions of the image in samples that have several, such as webp or input.jpg; the first that a sample "
        "has.",
    ),
    choice_option("--exif", get_args(Exif), "Turn images upright by EXIF (default), or take them as they are stored."),
)
"""How the samples of a shard and their images are found and read."""
target_option = click.option(
    "--target",
    default="label",
    metavar="TARGET",
    shell_complete=complete_comma_separated(targets_of_atlas),
    help="Maps to use, of a target of the atlas: label (GT-known), predicted, top:2, class:NAME.",
)


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Duration(click.ParamType[float]):
    """A time such as 30s, 90m, 6h or 2d, converted to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|d)", str(value).strip())
        if not match or not float(match[1]):
            self.fail(f"{value!r} is not a time; write it as 30s, 90m, 6h or 2d", param, ctx)
        return float(match[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[match[2]]


class CountOrDuration(click.ParamType[int | float]):
    """A number of items (int), or a time for them such as 30s or 1m, converted to seconds (float)."""

    name = "count or duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        text = str(value).strip()
        kind: click.ParamType[Any] = Duration() if text[-1:].isalpha() else click.IntRange(0)
        number: int | float = kind.convert(value, param, ctx)
        return number


def split_names(text: str | None) -> tuple[str, ...]:
    """Split a comma-separated list of names; None has none."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def read_class_names(path: str | None) -> tuple[str, ...]:
    """Read class names from a text file, one a line; return an empty tuple for None.

    Raises:
        UsageError: the file cannot be read, or a line is not a name.
    """
    if path is None:
        return ()
    names = read_text(path).removesuffix("\n").split("\n")
    for number, name in enumerate(names, 1):
        if not name.strip() or not name.isprintable():
            raise UsageError(f"{path}, line {number}: {name!r} is not a class name; write one name a line")
    return tuple(names)
