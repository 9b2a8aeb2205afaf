"""The cookbook sheet: what every method shows of the same few scenes, on the network of the demo."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track

from pipeline.demo.scenes import Scene
from pipeline.demo.synthetic_dataset import DEMO, make_scene
from pipeline.demo.train_model import MODEL
from pipeline.explain import Method, explain, methods, overlay, prepare
from pipeline.explain.load import load_model
from schemas.run import ModelSpec

SCENES = (1, 3, 24, 10)
"""Numbers of the scenes: bricks, a weave, the planted mark that the network decides by, marble at the border."""
_LEARNED = {"diffmask": MODEL / "gates.safetensors", "pm": MODEL / "pm.safetensors"}
"""What was trained for the network of the demo."""
_ACROSS = 12
"""Methods beside each other, behind the scenes themselves."""
_CELL, _GAP, _TITLE = 136, 4, 50
"""Pixels of a cell, between two, and of the two lines of a title above them."""
_IMAGE = "image"


def render_gallery(numbers: Sequence[int] = SCENES) -> dict[str, list[Image.Image]]:
    """What methods show of scenes of the demo, each map over its scene from blue (least) to red (most).

    Methods have their default options, and explain the class of the scene. Those that need weights of their own have
    those that were trained for the network of the demo.

    Args:
        numbers: of the scenes.

    Returns:
        RGB pictures of the scenes by ``image``; and by the name of each method that is defined for the network, in the
        order of the registry.
    """
    network = load_model(ModelSpec(name=f"local-dir:{MODEL}", pretrained=True))
    scenes: list[Scene] = [make_scene(DEMO, 0, number) for number in numbers]
    pictures = [Image.fromarray(each.image) for each in scenes]
    entries = [entry for entry in map(_entry, methods.values()) if not entry.unsupported(network.anatomy)]
    targets = torch.tensor([[each.label] for each in scenes])
    images, console = prepare(network.model, pictures), Console(stderr=True)
    shown = {_IMAGE: pictures}
    for entry in track(entries, "explain", console=console, disable=not console.is_terminal):  # some take a minute
        ((name, maps),) = explain(network.model, images, targets, [entry]).items()
        shown[name] = [overlay(*pair) for pair in zip(pictures, maps[:, 0], strict=True)]
    return shown


def _entry(method: type[Method]) -> Method:
    learned = _LEARNED.get(method.base_name)
    return methods.parse(f"{method.base_name}:artifact={learned}") if learned else method()


def save_gallery(pictures: Mapping[str, Sequence[Image.Image]], file: Path) -> None:
    """Draw a cookbook as JPEG: a row is a scene; a column is a method, the first of each block the scenes.

    Names stand in the file as a comment, too, so that ``load_gallery`` finds them again.
    """
    names = [name for name in pictures if name != _IMAGE]
    scenes = pictures[_IMAGE]
    blocks = [[_IMAGE, *names[first : first + _ACROSS]] for first in range(0, len(names), _ACROSS)]
    size = _corner(0, 0, _ACROSS + 1, 0)[0] - _GAP, _corner(len(blocks), 0, 0, len(scenes))[1] - _TITLE - _GAP
    drawn = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(19)
    for block, titles in enumerate(blocks):
        for column, name in enumerate(titles):
            left, top = _corner(block, 0, column, len(scenes))
            middle = (left + _CELL / 2, top - 5)
            pen.multiline_text(middle, _two_lines(name), "black", font, anchor="md", align="center", spacing=2)
            for row, picture in enumerate(pictures[name]):
                cell = picture.resize((_CELL, _CELL), Image.Resampling.LANCZOS)
                drawn.paste(cell, _corner(block, row, column, len(scenes)))
    drawn.save(file, quality=88, comment=json.dumps({"methods": names, "scenes": len(scenes)}).encode())


def load_gallery(file: Path) -> dict[str, Image.Image]:
    """What ``save_gallery`` has drawn into a file, cut out again: the scenes in a row, and the maps of each method."""
    drawn = Image.open(file)
    about = json.loads(drawn.info["comment"])
    scenes, names = about["scenes"], about["methods"]
    places = {_IMAGE: (0, 0)} | {name: (place // _ACROSS, place % _ACROSS + 1) for place, name in enumerate(names)}
    found = {}
    for name, (block, column) in places.items():
        found[name] = Image.new("RGB", (scenes * (_CELL + _GAP) - _GAP, _CELL), "white")
        for row in range(scenes):
            left, top = _corner(block, row, column, scenes)
            cell = drawn.crop((left, top, left + _CELL, top + _CELL))
            found[name].paste(cell, (row * (_CELL + _GAP), 0))
    return found


def _corner(block: int, row: int, column: int, scenes: int) -> tuple[int, int]:
    """Left and top of a cell, in pixels."""
    height = _TITLE + scenes * (_CELL + _GAP)
    return column * (_CELL + _GAP), block * height + _TITLE + row * (_CELL + _GAP)


def _two_lines(name: str) -> str:
    """A name as it fits above a cell."""
    return name if len(name) <= 11 else name.replace("_", "\n", 1)
