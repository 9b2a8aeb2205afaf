"""The sheet of all methods: what is on it, that it is found again, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.demo import method_gallery
from pipeline.demo.method_gallery import load_gallery, save_gallery
from pipeline.demo.synthetic_dataset import DEMO, make_scene
from pipeline.explain import methods

PUBLISHED = Path(__file__).parents[2] / "docs" / "methods.jpg"


def test_every_method_that_is_defined_for_the_network_is_in_it_with_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = [methods[name] for name in ("legrad", "transformer_attribution", "pm", "diffmask", "center")]
    monkeypatch.setattr(method_gallery, "methods", SimpleNamespace(values=lambda: few, parse=methods.parse))
    found = method_gallery.render_gallery([1, 24])
    assert list(found) == ["image", "legrad", "pm", "diffmask", "center"]
    sizes = [make_scene(DEMO, 0, number).image.shape[1::-1] for number in (1, 24)]
    assert all([picture.size for picture in pictures] == sizes for pictures in found.values())


@pytest.mark.parametrize("count", [1, 12, 13])
def test_what_is_drawn_is_found_again(count: int, tmp_path: Path) -> None:
    colours = {"image": (0, 0, 0)} | {f"method_{place}": (15 * place, 200, 90) for place in range(count)}
    drawn = {name: [Image.new("RGB", (50, 40), colour)] * 2 for name, colour in colours.items()}
    save_gallery(drawn, tmp_path / "sheet.jpg")
    found = load_gallery(tmp_path / "sheet.jpg")
    assert list(found) == list(colours)
    for name, colour in colours.items():
        pixels = np.asarray(found[name]).astype(int)
        assert np.abs(pixels[10:-10, [10, -10]] - colour).max() < 12


def test_the_published_sheet_shows_methods_that_there_are() -> None:
    shown = list(load_gallery(PUBLISHED))
    assert shown[1:] == [name for name in methods if name in shown]
    assert {"legrad", "reciprocam", "diffmask", "pm"} <= set(shown)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("sheet.png",), "must end in .jpg"),
        (("nowhere/sheet.jpg",), "the folder"),
        (("sheet.jpg", "--json"), "remove --model and --json"),
        (("sheet.jpg", "--model", "vit_tiny_patch16_224"), "remove --model and --json"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_refused_before_any_work(arguments, reason, vitatlas, tmp_path) -> None:
    code, _, error = vitatlas("methods", "--sheet", tmp_path / arguments[0], *arguments[1:])
    assert (code, reason in error, list(tmp_path.iterdir())) == (2, True, [])
