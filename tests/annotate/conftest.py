"""A page of images that are turned, of one name in two folders, and of keys that would like to be code."""

import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from browsing import Open, chromium, opening_pages
from PIL import Image
from playwright.sync_api import Browser
from report_world import HOSTILE
from safetensors.torch import save_file
from support import build_once, in_one_process, write_tar

from pipeline.annotate import write_page
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.run import ModelSpec, RunSpec

KEYS = ("cat/001", "dog/001", "dog/turned", "dog/upside", "dog/\u202etfel", f"long/{'x' * 300}", *HOSTILE)
LABELS = (0, 1, 1, 1, 2, 3, 4, 5, 6, 7)
NAMES = ("<i>cat</i>", "dog", *(f"class {number}" for number in range(2, 10)))
CORNER = (12, 9, 30, 18)
"""A white block in each image, x0, y0, x1, y1, ends exclusive, as the upright image has it."""


def picture(number: int, orientation: int) -> bytes:
    """A JPEG of 60 × 40 pixels upright, stored by an EXIF orientation, with a white block on colors of its own."""
    values = np.full((40, 60, 3), (30 + 9 * number, 60, 120), np.uint8)
    x0, y0, x1, y1 = CORNER
    values[y0:y1, x0:x1] = 255
    image = Image.fromarray(values)
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
    if orientation in back:
        image = image.transpose(back[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def write_world(folder: Path) -> None:
    """Write an atlas of these images, and a page of them all."""
    members = []
    for number, (key, label) in enumerate(zip(KEYS, LABELS, strict=True)):
        orientation = {"dog/turned": 6, "dog/upside": 3}.get(key, 1)
        members += [(f"{key}.jpg", picture(number, orientation)), (f"{key}.cls", str(label).encode())]
    write_tar(folder / "shards" / "all-0.tar", members[:8])
    write_tar(folder / "shards" / "all-1.tar", members[8:])
    torch.manual_seed(1)
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), folder / "weights.safetensors")
    spec = RunSpec(
        shards=(str(folder / "shards" / "all-{0..1}.tar"),),
        model=ModelSpec(name="test_vit", checkpoint=str(folder / "weights.safetensors")),
        methods=("attention", "legrad", "center"),
        targets=("label",),
    )
    plan(spec, str(folder / "atlas"))
    run(str(folder / "atlas"), INLINE)
    with in_one_process():
        write_page(Atlas.open(str(folder / "atlas")), str(folder / "page"), names=NAMES)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``atlas`` and ``page``, not to be changed."""
    return build_once(tmp_path_factory, "annotate", write_world)


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    with in_one_process():
        yield


def read_data(folder: Path) -> dict[str, Any]:
    """What a page is told of its images."""
    text = (folder / "data.js").read_text("ascii")
    data: dict[str, Any] = json.loads(text.removeprefix("atlas.page(").removesuffix(");\n"))
    return data


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser, drawn: Path) -> Iterator[Open]:
    """Open the page."""
    with opening_pages(browser) as opened:
        yield partial(opened, f"{drawn}/page/index.html")
