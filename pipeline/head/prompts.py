"""Texts that stand for classes: names in templates, or prompts of each class."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import yaml

from pipeline.head.tower_parts import EXTRA
from pipeline.utils.local_file import read_text
from schemas.errors import UsageError
from schemas.text import shorten, suggest

TEMPLATE_SETS = {"openai": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}
"""Templates of open_clip: the 80 of CLIP's authors for ImageNet, and their 7 best."""
_PLACE = "{}"


@dataclass(frozen=True)
class Prompts:
    """Classes, and the texts of each.

    Attributes:
        classes: names. They may repeat: ImageNet has two classes "missile".
        prompts: texts of each class; empty if its name stands in each template.
        templates: texts in which ``{}`` stands for the name.
    """

    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...] = ()
    templates: tuple[str, ...] = ()

    @classmethod
    def of_names(cls, names: Sequence[str], templates: Sequence[str] = ()) -> Self:
        """Put each name into each template; without any, the names are the texts."""
        whole = () if templates else tuple((name,) for name in names)
        return cls(tuple(names), whole, tuple(templates))

    @classmethod
    def read(cls, path: str) -> Self:
        """Read a YAML mapping of class names to one prompt or a list of them.

        Names and prompts are text as it is written: ``yes`` and ``1`` are names, too.

        Raises:
            UsageError: it cannot be read, a name is twice there, or a prompt is empty or not one line.
        """
        entries = list(_mapping(path))
        for name, texts in entries:
            _check_line(name, f"{path}: the class name {shorten(name)!r}")
            if not texts:
                raise UsageError(f"{path}: {shorten(name)!r} has no prompts; give at least one")
            for text in texts:
                _check_line(text, f"{path}: {shorten(name)!r}: the prompt {shorten(text)!r}")
        names = [name for name, _ in entries]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise UsageError(f"{path}: {shorten(twice[0])!r} is there twice; give all its prompts in one list")
        return cls(tuple(names), tuple(texts for _, texts in entries))

    @property
    def count(self) -> int:
        """Number of texts."""
        return sum(map(len, self.prompts)) or len(self.classes) * len(self.templates)

    def texts(self) -> Iterator[tuple[int, str]]:
        """Yield the number of the class, and a text of it."""
        for index, name in enumerate(self.classes):
            texts = self.prompts[index] if self.prompts else [text.replace(_PLACE, name) for text in self.templates]
            yield from ((index, text) for text in texts)


def read_templates(source: str) -> tuple[str, ...]:
    """Read templates.

    Args:
        source: ``openai``, ``simple``, or a file with one template a line; ``{}`` stands for the name.

    Raises:
        UsageError: open_clip is not installed, the file cannot be read, or a line has not one ``{}``.
    """
    if source in TEMPLATE_SETS:
        try:
            import open_clip
        except ImportError:
            raise UsageError(f"the templates {source} need a missing package; {EXTRA}") from None
        return tuple(template(_PLACE) for template in getattr(open_clip, TEMPLATE_SETS[source]))
    if not os.path.exists(source):
        hint = suggest(source, TEMPLATE_SETS) or f"; name a file, or {' or '.join(TEMPLATE_SETS)}"
        raise UsageError(f"{source}: there are no such templates{hint}")
    lines = [line.rstrip("\r") for line in read_text(source).removesuffix("\n").split("\n")]
    for number, line in enumerate(lines, 1):
        _check_line(line, f"{source}, line {number}: the template {shorten(line)!r}")
        if line.count(_PLACE) != 1:
            raise UsageError(f"{source}, line {number}: {shorten(line)!r} must have {_PLACE} once, for the name")
    return tuple(lines)


def _mapping(path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the entries of a YAML mapping as they are written: numbers and the like stay text."""
    try:
        root: Any = yaml.compose(read_text(path), yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UsageError(f"{path}{f', line {mark.line + 1}' if mark else ''}: is not YAML") from None
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise UsageError(f"{path}: must be a mapping of class names to prompts, as in cat: [a photo of a cat]")
    for key, value in root.value:
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if any(not isinstance(node, yaml.ScalarNode) for node in (key, *items)):
            raise UsageError(
                f"{path}, line {key.start_mark.line + 1}: must be a name and its prompts, as in cat: [a photo of a cat]"
            )
        empty = isinstance(value, yaml.ScalarNode) and value.tag.endswith(":null")
        yield key.value, () if empty else tuple(node.value for node in items)


def _check_line(text: str, what: str) -> None:
    if not text.strip():
        raise UsageError(f"{what} is empty; write a text, or remove it")
    if not text.isprintable():
        raise UsageError(f"{what} has a line break or a control character; write it as one line of text")
