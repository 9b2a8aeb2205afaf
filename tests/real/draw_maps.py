"""Pictures of the maps of an atlas on its photos, for README and the page."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from real.fetch_photos import list_photos

from pipeline.demo.method_gallery import save_gallery
from pipeline.image.overlay import overlay_heatmap
from pipeline.store import Atlas

FREE = ("CC0-1.0", "public domain")
"""Licences of photos that the documentation shows."""
SHEET = ("scarlet_macaw", "cat", "hedgehog", "fish28", "windmill4")
FAILURES = ("duck", "fish6", "fish28", "bison", "hedgehog", "koala", "windmill9")
FAILING = ("attention", "rollout", "gradcam", "pm_zs", "attn_gradcam", "agcam", "legrad", "legrad_last2", "reciprocam")
_HIDDEN = ("uniform", "random", "attn_lrp_pixels_gamma0.25")
"""Left out of the sheet of all methods: maps without structure, and one whose title is too long for a column."""
_QUALITY = 72
"""Of the JPEG files: sheets of photos have to stay below 400 kB."""


def draw_maps(atlas: Atlas, photos: Path, out: Path) -> None:
    """Write ``out/methods.jpg``, all methods on a few photos, and ``out/failures.jpg``, a few methods on more photos.

    Args:
        atlas: with maps of the label.
        photos: folder of ``write_photos``.
        out: existing folder.
    """
    _draw(atlas, photos, SHEET, [name for name in atlas.methods if name not in _HIDDEN], out / "methods.jpg")
    _draw(atlas, photos, FAILURES, FAILING, out / "failures.jpg")


def _draw(atlas: Atlas, photos: Path, names: Sequence[str], methods: Sequence[str], file: Path) -> None:
    listed = {photo.name: photo for photo in list_photos()}
    gallery: dict[str, list[Image.Image]] = {title: [] for title in ("image", *methods)}
    for name in names:
        photo = listed[name]
        if photo.license not in FREE:
            raise ValueError(f"{name} is {photo.license}, which asks for more than its name beside it")
        image = Image.open(photos / photo.path).convert("RGB")
        gallery["image"].append(_crop(image))
        for method in methods:
            gallery[method].append(_crop(overlay_heatmap(image, atlas.map(photo.path.removesuffix(".jpg"), method))))
    save_gallery(gallery, file)
    sheet = Image.open(file)
    sheet.save(file, quality=_QUALITY, optimize=True, comment=sheet.info["comment"])


def _crop(image: Image.Image) -> Image.Image:
    """Crop the square in the middle; the network saw the whole photo."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
