"""Write the page: its data, the images, its style and scripts."""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.annotate.select_images import ChosenImage, select_images
from pipeline.image import PreprocessConfig
from pipeline.run.execution import ComputeOptions
from pipeline.run.parallel_map import parallel_map
from pipeline.store import MapReader, ObjectStore
from pipeline.store.images import read_images
from pipeline.utils.atomic_write import is_temp_file
from pipeline.utils.io import refuse_commands
from pipeline.utils.json_script import to_script
from schemas.annotations import CocoInfo, ImageSelection
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.text import escape_control

DATA, PAGE = "data.js", "index.html"
SIDE = 1024
"""Longest side of an image on the page, in pixels."""
_NO_CLASS = 0
"""Category of an image without label and prediction; that of a class is its id + 1."""
_BATCH_SIZE = 8
_JPEG_QUALITY = 88


def write_page(
    atlas: MapReader,
    out: str,
    images: int = 50,
    selection: ImageSelection = "random",
    target: str = "label",
    seed: int = 0,
    names: Sequence[str] = (),
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> tuple[str, int]:
    """Write a page on which a person draws boxes on images of an atlas. Equal inputs give equal bytes.

    Args:
        atlas: the atlas.
        out: folder or URL of the page, empty or with the same page.
        images: largest number of images.
        selection: see ``select_images``.
        target: target kind of the maps that are compared; images without such a map are not chosen.
        seed: random seed of the choice.
        names: names of the classes by class id; empty are those of the atlas.
        options: where it is computed; may shell commands be run to read images.
        log: called with sentences for the user.

    Returns:
        URL of ``index.html``, and the number of images.

    Raises:
        UsageError: there is nothing to choose, not all classes are named, or the folder holds something else.
        CorruptShardError: images cannot be read, or are not those of the atlas.
    """
    refuse_commands((shard.url for shard in atlas.run.shards), options.allow_pipe)
    target, names = atlas.find_target(target), atlas.class_names(names)
    objects = ObjectStore(out)
    chosen = select_images(atlas, images, selection, target, seed, options, log)
    data = _page_data(atlas, chosen, selection, names)
    _check_folder(objects, data)
    objects.put(DATA, data)  # first: a page that is interrupted is known by it
    by_shard: dict[str, list[ChosenImage]] = {}
    for image in chosen:
        by_shard.setdefault(image.shard, []).append(image)
    for _ in parallel_map(partial(_write_images, atlas, out), list(by_shard.values()), "images", options.address):
        continue
    folder = files("pipeline.annotate") / "assets"
    assets = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.name)
    for file in assets:
        objects.put(PAGE if file.name == PAGE else f"assets/{file.name}", file.read_bytes())
    objects.remove_temp_files()
    return f"{objects.url}/{PAGE}", len(chosen)


def _check_folder(objects: ObjectStore, data: bytes) -> None:
    if objects.exists(DATA):
        if objects.get(DATA) != data:
            raise UsageError(f"{objects.url}: holds a page of other images; choose another --out")
    elif any(not is_temp_file(name) for name, _ in objects.list_all()):
        raise UsageError(f"{objects.url}: is not empty; choose another --out")


def _page_data(
    atlas: MapReader, chosen: Sequence[ChosenImage], selection: ImageSelection, names: Sequence[str]
) -> bytes:
    """Return ``atlas.page({info, categories, images})``. Keys are for the eye; file names are what is saved."""
    tables = {name: atlas.shard(name).samples for name in {image.shard for image in chosen}}
    samples = [tables[image.shard].slice(image.ordinal, 1).to_pylist()[0] for image in chosen]
    described = [_describe(sample) for sample in samples]
    numbers = sorted({number for image in described for number in image["categories"]})
    categories = [{"id": number, "name": _category_name(number, names)} for number in numbers]
    content = {"categories": categories, "images": described}
    run = {"run": atlas.run.run_hash, "images": [sample["image_sha256"] for sample in samples]}
    info = CocoInfo(
        orientation="upright" if atlas.run.spec.exif == "apply" else "stored",
        whole_keys=True,
        page=sha256(json.dumps([content, run], sort_keys=True).encode()),
        selection=selection,
    )
    return to_script("page", {"info": info.model_dump(), **content})


def _category_name(number: int, names: Sequence[str]) -> str:
    if number == _NO_CLASS:
        return "object"
    return escape_control(names[number - 1]) if number <= len(names) else f"class {number - 1}"


def _describe(sample: dict[str, Any]) -> dict[str, Any]:
    """Return what the page has to know of an image: ``given`` tells whether its classes are labels."""
    labels = sample["labels"] or [class_id for class_id in (sample["label"],) if class_id is not None]
    predicted = [class_id for class_id in (sample["prediction"],) if class_id is not None]
    return {
        "file": sample["member"],
        "key": escape_control(sample["key"]),
        "width": sample["width"],
        "height": sample["height"],
        "categories": [class_id + 1 for class_id in labels or predicted] or [_NO_CLASS],
        "given": bool(labels),
    }


def _write_images(atlas: MapReader, out: str, chosen: Iterable[ChosenImage]) -> None:
    """Write the images of one shard, named by their places."""
    objects, place_of = ObjectStore(out), {image.ordinal: image.place for image in chosen}
    (name,) = {image.shard for image in chosen}
    shard = atlas.shard(name)
    squashed = PreprocessConfig(SIDE, SIDE, "bicubic", "squash", 1.0, "center")
    samples = shard.samples.select(["width", "height"]).to_pylist()
    for batch, images in read_images(shard, sorted(place_of), _BATCH_SIZE, preprocess=squashed):
        for ordinal, pixels in zip(batch, images, strict=True):
            data = _encode(pixels, samples[ordinal]["width"], samples[ordinal]["height"])
            objects.put(f"images/{place_of[ordinal]}.jpg", data)


def _encode(pixels: NDArray[np.uint8], width: int, height: int) -> bytes:
    """Encode a squashed image [3, SIDE, SIDE] in the shape of the original."""
    scale = min(1, SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
