"""Pictures of the maps of an atlas on its photos, for README and the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from real.fetch_photos import Photo, list_photos

from pipeline.demo.method_gallery import save_gallery
from pipeline.explain import explain, methods, prepare
from pipeline.image.overlay import overlay_heatmap
from pipeline.store import Atlas
from pipeline.utils.progress import track

Map = NDArray[np.floating]
FREE = ("CC0-1.0", "public domain")
"""Licences of photos that the documentation shows."""
SHEET = ("scarlet_macaw", "hedgehog", "fish28", "windmill4")
FURTHER = ("beyond_intuition", "gradcam_pp", "layercam", "integrated_gradients", "smoothgrad")
"""Methods on the sheet that the atlas does not have; most take dozens of forwards for an image."""
FAILURES = ("duck", "fish6", "fish28", "bison", "hedgehog", "koala", "windmill9")
FAILING = ("attention", "rollout", "gradcam", "pm_zs", "attn_gradcam", "agcam", "legrad", "legrad_last2", "reciprocam")
_HIDDEN = ("uniform", "random", "attn_lrp_pixels_gamma0.25")
"""Left out of the sheet of all methods: maps without structure, and one whose title is too long for a column."""
_QUALITY = 72
"""Of the JPEG files: sheets of photos have to stay below 400 kB."""


def draw_maps(atlas: Atlas, model: Any, photos: Path, out: Path) -> None:
    """Write ``out/methods.jpg``, all methods on a few photos, and ``out/failures.jpg``, a few methods on more photos.

    Args:
        atlas: with maps of the label.
        model: its network.
        photos: folder of ``write_photos``.
        out: existing folder.
    """
    shown = [name for name in atlas.methods if name not in _HIDDEN]
    maps = _read_maps(atlas, SHEET, shown) | _explain(atlas, model, photos, SHEET)
    bases = dict(zip(atlas.run.methods, (spec.partition(":")[0] for spec in atlas.run.spec.methods), strict=True))
    in_order = sorted(maps, key=lambda name: list(methods).index(bases.get(name, name)))
    _draw(photos, SHEET, {name: maps[name] for name in in_order}, out / "methods.jpg")
    _draw(photos, FAILURES, _read_maps(atlas, FAILURES, FAILING), out / "failures.jpg")


def _list(names: Sequence[str]) -> list[Photo]:
    listed = {photo.name: photo for photo in list_photos()}
    return [listed[name] for name in names]


def _read_maps(atlas: Atlas, names: Sequence[str], shown: Sequence[str]) -> dict[str, list[Map]]:
    """Read the maps of photos by method."""
    keys = [photo.path.removesuffix(".jpg") for photo in _list(names)]
    return {method: [atlas.map(key, method) for key in keys] for method in shown}


def _explain(atlas: Atlas, model: Any, photos: Path, names: Sequence[str]) -> dict[str, list[Map]]:
    """Compute the maps of ``FURTHER`` for the label of photos, by method."""
    listed, classes = _list(names), atlas.run.model.head.classes
    inputs = prepare(model, [Image.open(photos / photo.path).convert("RGB") for photo in listed])
    class_ids = torch.tensor([[classes.index(photo.label)] for photo in listed])
    found = {}
    for method in track(FURTHER, len(FURTHER), "explain"):
        found[method] = list(explain(model, inputs, class_ids, [method])[method][:, 0].numpy())
    return found


def _draw(photos: Path, names: Sequence[str], maps: Mapping[str, Sequence[Map]], file: Path) -> None:
    gallery: dict[str, list[Image.Image]] = {title: [] for title in ("image", *maps)}
    for place, photo in enumerate(_list(names)):
        if photo.license not in FREE:
            raise ValueError(f"{photo.name} is {photo.license}, which asks for more than its name beside it")
        image = Image.open(photos / photo.path).convert("RGB")
        gallery["image"].append(_crop(image))
        for method, values in maps.items():
            gallery[method].append(_crop(overlay_heatmap(image, values[place])))
    save_gallery(gallery, file)
    sheet = Image.open(file)
    sheet.save(file, quality=_QUALITY, optimize=True, comment=sheet.info["comment"])


def _crop(image: Image.Image) -> Image.Image:
    """Crop the square in the middle; the network saw the whole photo."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
