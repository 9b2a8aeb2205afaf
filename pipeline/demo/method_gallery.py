"""Gallery of all methods: their maps of the same few scenes, with the demo model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline.demo.scenes import Scene
from pipeline.demo.synthetic_dataset import DEMO, make_scene
from pipeline.demo.train_model import MODEL
from pipeline.explain import Method, explain, methods, overlay, prepare
from pipeline.explain.load import load_model
from pipeline.utils.progress import track
from schemas.run import ModelSpec

SCENES = (1, 3, 24, 10)
"""Numbers of the scenes: bricks, a weave, the shortcut mark that the model relies on, marble at the border."""
_ARTIFACTS = {"diffmask": MODEL / "gates.safetensors", "pm": MODEL / "pm.safetensors"}
"""Artifacts that were trained for the demo model."""
_MOST_METHODS_PER_BLOCK = 10
_CELL, _GAP, _TITLE, _FONT_SIZE = 136, 4, 58, 22
"""Pixels of a cell, between two cells, and of the two lines of a title above them."""
_IMAGE = "image"


def render_gallery(numbers: Sequence[int] = SCENES) -> dict[str, list[Image.Image]]:
    """Render the maps of all supported methods as heatmaps over scenes, from blue (lowest) to red (highest).

    Methods have their default options, and explain the class of the scene. Learned methods use the artifacts that were
    trained for the demo model.

    Args:
        numbers: numbers of the scenes.

    Returns:
        RGB images of the scenes under ``image``, and under the name of each method, in the order of the registry.
    """
    loaded = load_model(ModelSpec(name=f"local-dir:{MODEL}", pretrained=True))
    scenes: list[Scene] = [make_scene(DEMO, 0, number) for number in numbers]
    images = [Image.fromarray(scene.image) for scene in scenes]
    supported = [method for method in map(_make_method, methods.values()) if not method.refusal(loaded.anatomy)]
    class_ids = torch.tensor([[scene.label] for scene in scenes])
    inputs = prepare(loaded.model, images)
    gallery = {_IMAGE: images}
    for method in track(supported, len(supported), "explain"):  # may take a minute
        ((name, maps),) = explain(loaded.model, inputs, class_ids, [method]).items()
        gallery[name] = [overlay(*pair) for pair in zip(images, maps[:, 0], strict=True)]
    return gallery


def _make_method(method: type[Method]) -> Method:
    artifact = _ARTIFACTS.get(method.base_name)
    return methods.parse(f"{method.base_name}:artifact={artifact}") if artifact else method()


def save_gallery(gallery: Mapping[str, Sequence[Image.Image]], file: Path) -> None:
    """Save a gallery as JPEG: one row per scene, one column per method; the first column of a block has the scenes.

    No block is much narrower than the others. The names are also stored as a comment of the file, for ``load_gallery``.

    Args:
        gallery: images by name, as of ``render_gallery``.
        file: output file.
    """
    names = [name for name in gallery if name != _IMAGE]
    scenes = gallery[_IMAGE]
    per_block = _methods_per_block(len(names))
    blocks = [[_IMAGE, *names[start : start + per_block]] for start in range(0, len(names), per_block)]
    width = _corner(0, 0, len(blocks[0]), 0)[0] - _GAP
    height = _corner(len(blocks), 0, 0, len(scenes))[1] - _TITLE - _GAP
    sheet = Image.new("RGB", (width, height), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for block, titles in enumerate(blocks):
        for column, name in enumerate(titles):
            left, top = _corner(block, 0, column, len(scenes))
            anchor = (left + _CELL / 2, top - 5)
            canvas.multiline_text(anchor, _wrap(name), "black", font, anchor="md", align="center", spacing=2)
            for row, image in enumerate(gallery[name]):
                cell = image.resize((_CELL, _CELL), Image.Resampling.LANCZOS)
                sheet.paste(cell, _corner(block, row, column, len(scenes)))
    sheet.save(file, quality=78, optimize=True, comment=json.dumps({"methods": names, "scenes": len(scenes)}).encode())


def load_gallery(file: Path) -> dict[str, Image.Image]:
    """Return the parts of a saved gallery by name: the scenes in a row, and the heatmaps of each method."""
    sheet = Image.open(file)
    comment = json.loads(sheet.info["comment"])
    scenes, names = comment["scenes"], comment["methods"]
    per_block = _methods_per_block(len(names))
    places = {_IMAGE: (0, 0)}
    places |= {name: (i // per_block, i % per_block + 1) for i, name in enumerate(names)}
    strips = {}
    for name, (block, column) in places.items():
        strips[name] = Image.new("RGB", (scenes * (_CELL + _GAP) - _GAP, _CELL), "white")
        for row in range(scenes):
            left, top = _corner(block, row, column, scenes)
            cell = sheet.crop((left, top, left + _CELL, top + _CELL))
            strips[name].paste(cell, (row * (_CELL + _GAP), 0))
    return strips


def _methods_per_block(count: int) -> int:
    """Return how many of the methods each block has but the last, which has as many or fewer."""
    blocks = -(-count // _MOST_METHODS_PER_BLOCK)
    return -(-count // blocks)


def _corner(block: int, row: int, column: int, scenes: int) -> tuple[int, int]:
    """Return left and top of a cell, in pixels."""
    height = _TITLE + scenes * (_CELL + _GAP)
    return column * (_CELL + _GAP), block * height + _TITLE + row * (_CELL + _GAP)


def _wrap(name: str) -> str:
    """Wrap a long name into two lines."""
    return name if len(name) <= 11 else name.replace("_", "\n", 1)
