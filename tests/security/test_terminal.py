"""What is printed is text: no key, member or error of a stranger moves a cursor or writes a title."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support import jpeg, write_tar

from schemas.run import ModelSpec

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
KEY = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e[bold]key"


def test_markup_is_text(vitatlas: Callable[..., tuple[int, str, str]], checkpoint: ModelSpec, inside: Path) -> None:
    members = [("[bold red]a[/].jpg", b"junk"), ("[bold red]a[/].cls", b"1"), ("b.jpg", jpeg()), ("b.cls", b"1")]
    given = ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint, "--methods", "legrad"]
    shard = write_tar(inside / "a.tar", members)
    assert vitatlas("run", shard, "--out", inside / "atlas", *given, "--executor", "inline")[0] == 0
    assert "[bold red]a[/]" in vitatlas("status", inside / "atlas")[1]


@pytest.mark.parametrize("colour", [True, False])
def test_no_control_character_reaches_the_terminal(
    vitatlas: Callable[..., tuple[int, str, str]],
    checkpoint: ModelSpec,
    inside: Path,
    monkeypatch: pytest.MonkeyPatch,
    colour: bool,
) -> None:
    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
    members = [(f"{KEY}.jpg", b"junk"), (f"{KEY}.cls", KEY.encode()), ("b.jpg", jpeg()), ("b.cls", b"1")]
    given = ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint, "--methods", "legrad"]
    shard = write_tar(inside / "a.tar", members)
    printed = vitatlas("run", shard, "--out", inside / "atlas", *given, "--executor", "inline")[1:]
    printed += vitatlas("status", inside / "atlas")[1:]
    printed += vitatlas("status", inside / f"{KEY}")[1:]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(printed))  # as rich itself colours and moves
    assert not CONTROL.search(plain)
