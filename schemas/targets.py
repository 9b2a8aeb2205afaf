"""Targets: what the maps of an image explain. Each target kind of a spec gives one or more targets of the atlas."""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator

from schemas.errors import UsageError
from schemas.text import suggest

KINDS = ("label", "label:M", "predicted", "top:K", "text", "text:FIELD", "class:NAME,…")
"""Target kinds, as messages list them."""
UNLABELLED: tuple[str, ...] = ("predicted",)
"""Target kinds of a run that names none, over samples without any label."""
_NUMBERED = re.compile(r"(?:label|top):[1-9][0-9]{0,2}")
_LABELS = re.compile(r"label:([0-9]+)")
_TEXT = re.compile(r"text(?::[\w-]{1,64})?")
_CLASS = "class:"
_MANY = 8
"""Class ids that a message lists."""


def _check_kind(kind: str) -> str:
    named = kind.startswith(_CLASS) and all(part.strip() for part in kind.removeprefix(_CLASS).split(","))
    if kind in ("label", "predicted") or named or _NUMBERED.fullmatch(kind) or _TEXT.fullmatch(kind):
        return kind
    raise ValueError(f"there is no target kind {kind!r}; there are {', '.join(KINDS)}{suggest(kind, KINDS)}")


def _check_target(target: str) -> str:
    if len(target_names([_check_kind(target)])) > 1 and "," in target:
        raise ValueError(f"{target!r} are several targets; name one")
    return target


TargetGroup = Literal["top", "class"]
"""All targets that a kind gives, such as ``top:1`` … ``top:5``; ``label`` and ``predicted`` name themselves."""
TargetKind = Annotated[str, AfterValidator(_check_kind)]
"""What a spec asks for: ``label``; ``label:M``, up to M labels of each image; ``predicted``; ``top:K``, the K most
probable classes; ``class:A,B``, fixed ones;
``text``, the caption in the ``txt`` member of each sample; ``text:FIELD``, that in a field of its ``json`` member."""
Target = Annotated[str, AfterValidator(_check_target)]
"""Element of the ``target`` dimension: ``label``, ``predicted``, ``top:2`` (the second most probable), ``class:7``."""


def is_text(target: str) -> bool:
    """Return whether a target, or a target kind, is a text of each sample."""
    return _TEXT.fullmatch(target) is not None


def most_labels(kinds: Iterable[str]) -> int:
    """Return the number of labels of an image that kinds explain at most: M of ``label:M``, 1 of ``label``, or 0."""
    found = (_LABELS.fullmatch(kind) for kind in kinds if kind.partition(":")[0] == "label")
    return max((int(match[1]) if match else 1 for match in found), default=0)


def folder_name(target: str) -> str:
    """Return the name of a folder for what is made from the maps of a target."""
    return target.replace(":", "-")


def in_words(target: str, class_name: str = "") -> str:
    """Return what the maps of a target are of, for a reader.

    Args:
        target: the target.
        class_name: name of its class, if it is a fixed one.
    """
    kind, _, argument = target.partition(":")
    number = int(argument) if argument.isdecimal() else 0
    return {
        "label": f"{_ordinal(number)} label" if number else "label",
        "top": f"{_ordinal(number)} prediction",
        "class": f"class {class_name or argument}",
        "text": f"text in {argument}" if argument else "text",
    }.get(kind, "prediction")


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def split_kinds(text: str) -> list[str]:
    """Split comma-separated target kinds. ``class:`` takes the rest of the text, commas included."""
    before, found, classes = text.partition(_CLASS)
    if found and before.rstrip() and not before.rstrip().endswith(","):  # a part of another word
        before, found, classes = text, "", ""
    kinds = [kind.strip() for kind in before.split(",") if kind.strip()]
    return [*kinds, _CLASS + classes.strip().rstrip(",")] if found else kinds


def target_names(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the targets that kinds give, in their order."""
    return tuple(name for kind in kinds for name in _names_of(kind))


def _names_of(kind: str) -> tuple[str, ...]:
    name, _, argument = kind.partition(":")
    if name == "top" or _LABELS.fullmatch(kind):
        return tuple(f"{name}:{place}" for place in range(1, int(argument) + 1))
    if name == "class":
        return tuple(f"{name}:{part.strip()}" for part in argument.split(","))
    return (kind,)


def resolve_kinds(kinds: Sequence[str], names: Sequence[str], classes: int) -> tuple[str, ...]:
    """Return target kinds with class ids in place of class names.

    Args:
        kinds: as a user gave them.
        names: names of the classes by class id; empty where they have none.
        classes: number of classes.

    Raises:
        UsageError: there is no such kind or class, several have the name, there are fewer classes than a kind asks for,
            or a class is named twice.
    """
    for kind in kinds:
        try:
            _check_kind(kind)
        except ValueError as error:
            raise UsageError(f"{error}") from None
    resolved = tuple(_resolve(kind, names, classes) for kind in kinds)
    given = target_names(resolved)
    if twice := [name for place, name in enumerate(given) if name in given[:place]]:
        raise UsageError(f"target {twice[0]} is named twice; name it once")
    return resolved


def _resolve(kind: str, names: Sequence[str], classes: int) -> str:
    name, _, argument = kind.partition(":")
    if name == "top" and int(argument) > classes:
        raise UsageError(f"target {kind}: the network has {classes} classes; name at most top:{classes}")
    if name != "class":
        return kind
    return _CLASS + ",".join(str(find_class(part.strip(), names, classes)) for part in argument.split(","))


def find_class(text: str, names: Sequence[str], classes: int) -> int:
    """Return the id of a class.

    Args:
        text: the id; or its name, in any case of letters, or one of the names that a comma separates in it, as
            WordNet has them (``tench, Tinca tinca``).
        names: names of the classes by class id; empty where they have none.
        classes: number of classes.

    Raises:
        UsageError: there is no such class, or several; the message lists those with a similar name.
    """
    wanted = text.casefold()
    synonyms = [(class_id, part.strip().casefold()) for class_id, name in enumerate(names) for part in name.split(",")]
    whole = [class_id for class_id, name in enumerate(names) if name.strip().casefold() == wanted]
    found = set(whole) or {class_id for class_id, synonym in synonyms if synonym == wanted}
    if text.isdecimal() and text.isascii():
        found.add(int(text))
        if int(text) >= classes:
            raise UsageError(f"class {text}: the network has classes 0 … {classes - 1}; name one of these")
    if len(found) == 1:
        return found.pop()
    if found:
        ids = ", ".join(f"{class_id} ({names[class_id]})" for class_id in sorted(found)[:_MANY])
        raise UsageError(f"class {text!r}: may be {ids}; name one by its id, where no class has that as its name")
    if not names:
        raise UsageError(f"class {text!r}: the classes of this network have no names; give ids, 0 … {classes - 1}")
    raise UsageError(f"class {text!r}: there is no class of this name{suggest(wanted, (name for _, name in synonyms))}")
