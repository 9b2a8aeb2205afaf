"""The page in a real browser, from a disk: what is drawn is what is saved, kept, loaded again and scored."""

import json
from pathlib import Path
from typing import Any

import pytest
from annotate.conftest import CORNER, KEYS, NAMES, read_data
from axe_playwright_python.sync_playwright import Axe
from browsing import DESKTOP, PHONE, Open, in_a_browser
from playwright.sync_api import Page, expect

from pipeline.score import score
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.text import escape_control

pytestmark = in_a_browser
AXE = {"preload": False, "resultTypes": ["violations"]}


def drag(page: Page, *ends: tuple[float, float]) -> None:
    """Drag from one point to the next, in pixels of the image."""
    area = page.locator("#boxes").bounding_box()
    assert area is not None
    points = [(area["x"] + area["width"] * x / 60, area["y"] + area["height"] * y / 40) for x, y in ends]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()


def saved(page: Page, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "annotations.json"
    path = tmp_path / "annotations.json"
    download.value.save_as(path)
    return path, json.loads(path.read_text())


def open_image(page: Page, drawn: Path, key: str) -> None:
    """Go to an image by the keyboard alone."""
    place = [image["file"] for image in read_data(drawn / "page")["images"]].index(f"{key}.jpg")
    page.keyboard.press("Escape")
    while not page.locator("#title").inner_text().startswith("Image 1 of"):
        page.keyboard.press("ArrowLeft")
    for _ in range(place):
        page.keyboard.press("j")
    expect(page.locator("#title")).to_contain_text(f"Image {place + 1} of {len(KEYS)}:")


def test_drawn_boxes_are_saved_as_coco_that_score_reads_as_it_is(visit: Open, drawn: Path, tmp_path: Path) -> None:
    page = visit()
    for key in ("cat/001", "dog/turned", "dog/upside"):
        open_image(page, drawn, key)
        drag(page, CORNER[:2], CORNER[2:])
    drag(page, (60.4, 40.4), (45, 30))  # a second one, backwards, from beside the image
    open_image(page, drawn, "dog/001")
    page.get_by_role("button", name="No object here").click()
    path, content = saved(page, tmp_path)
    assert {image["file_name"] for image in content["images"]} == {
        "cat/001.jpg", "dog/001.jpg", "dog/turned.jpg", "dog/upside.jpg",
    }  # fmt: skip
    assert {(image["width"], image["height"]) for image in content["images"]} == {(60, 40)}
    names = {item["id"]: item["name"] for item in content["categories"]}
    assert {names[item["category_id"]] for item in content["annotations"]} == {NAMES[0], NAMES[1]}
    truth = read_truth(path)
    x0, y0, x1, y1 = CORNER
    block = [x0, y0, x1 - 1, y1 - 1]
    boxes = {key: item.boxes.tolist() for key, item in truth.by_key.items()}
    assert boxes == {
        "cat/001": [block], "dog/turned": [block], "dog/upside": [block, [45, 30, 59, 39]], "dog/001": [],
    }  # fmt: skip
    rows = score(Atlas.open(str(drawn / "atlas")), truth, subset=True, out=str(tmp_path / "scores")).to_pylist()
    assert {row["images"] for row in rows} == {3}


def test_all_is_done_by_keys_and_undone(visit: Open, drawn: Path, tmp_path: Path) -> None:
    page = visit()
    expect(page.locator("#stage")).to_be_focused()
    page.keyboard.press("b")
    name = page.locator("#title bdi").inner_text()
    expect(page.locator("#list button")).to_have_text([f"1: {name}, 30 × 20 px"])
    for key in ("Alt+ArrowRight", "Alt+ArrowRight", "Alt+Shift+ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_contain_text("Image 2 of")
    page.keyboard.press("0")
    expect(page.locator("#none")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#count")).to_have_text(f"2 of {len(KEYS)} done")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("b")
    page.keyboard.press("x")
    boxes = [item["bbox"] for item in saved(page, tmp_path)[1]["annotations"]]
    assert boxes == [[17, 10, 30, 21]]
    steps = [("u", 3, 1), ("u", 3, 0), ("u", 2, 0), ("u", 1, 1), ("Control+z", 1, 0)]
    for key, image, count in steps:  # of image 3 deleted and drawn, of 2 its mark, of 1 moved at once and drawn
        page.keyboard.press(key)
        expect(page.locator("#title")).to_contain_text(f"Image {image} of")
        expect(page.locator("#list button")).to_have_count(count)
    expect(page.locator("#undo")).to_be_disabled()
    expect(page.locator("#count")).to_have_text(f"0 of {len(KEYS)} done")


@pytest.mark.soak
def test_handles_change_a_box_and_a_click_selects_it(visit: Open, tmp_path: Path) -> None:
    page = visit()
    drag(page, (10, 10), (30, 30))
    drag(page, (30, 30), (40, 35))  # the lower right corner
    drag(page, (25, 22.5), (20, 12.5))  # the middle: a move up to the edge
    drag(page, (2, 2), (2, 2))  # a click beside it selects none
    expect(page.locator(".box.selected")).to_have_count(0)
    drag(page, (15, 8), (15, 8))
    expect(page.locator(".box.selected")).to_have_count(1)
    assert saved(page, tmp_path)[1]["annotations"][0]["bbox"] == [5, 0, 30, 25]
    page.keyboard.press("Delete")
    expect(page.locator("#count")).to_have_text(f"0 of {len(KEYS)} done")


def test_work_is_kept_by_the_browser_and_loaded_from_the_file_in_another(visit: Open, tmp_path: Path) -> None:
    page = visit()
    drag(page, (10, 10), (30, 30))
    page.keyboard.press("Enter")
    page.keyboard.press("0")
    page.reload()
    page.wait_for_function("() => 'ready' in document.body.dataset")
    expect(page.locator("#count")).to_have_text(f"2 of {len(KEYS)} done")
    expect(page.locator("#title")).to_contain_text("Image 2 of")
    path, content = saved(page, tmp_path)
    other = visit()
    expect(other.locator("#count")).to_have_text(f"0 of {len(KEYS)} done")
    other.locator("#load").set_input_files(path)
    expect(other.locator("#status")).to_have_text("Loaded 2 images.")
    expect(other.locator("#list button")).to_have_count(1)
    (tmp_path / "again").mkdir()
    assert saved(other, tmp_path / "again")[1] == content
    foreign = content["images"][0] | {"id": 99, "file_name": "elsewhere.jpg"}
    path.write_text(json.dumps(content | {"images": [*content["images"], foreign]}))
    other.locator("#load").set_input_files(path)
    expect(other.locator("#status")).to_have_text("Loaded 2 images; 1 are not images of this page.")
    faults = {"{": "is not JSON", "[]": "is not COCO", '{"images": [null], "annotations": []}': "Nothing is loaded."}
    for text, says in faults.items():
        path.write_text(text)
        other.locator("#load").set_input_files(path)
        expect(other.locator("#status")).to_contain_text(says)
    expect(other.locator("#count")).to_have_text(f"2 of {len(KEYS)} done")


@pytest.mark.soak
@pytest.mark.parametrize(
    "script",
    [
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }})",
        """Storage.prototype.getItem = () => '{"place": 1e9, "entries": [7, {"boxes": [{}]}]}'""",
    ],
    ids=["none", "rubbish"],
)
def test_a_browser_that_keeps_nothing_or_rubbish_does_no_harm(visit: Open, tmp_path: Path, script: str) -> None:
    page = visit(script=script)
    expect(page.locator("#title")).to_contain_text("Image 1 of")
    drag(page, (10, 10), (30, 30))
    denied = "denied" in script
    expect(page.locator("#notice")).to_be_visible(visible=denied)
    assert len(saved(page, tmp_path)[1]["images"]) == 1


def test_hostile_keys_and_names_are_text(visit: Open, drawn: Path) -> None:
    page = visit()
    for image in read_data(drawn / "page")["images"]:
        expect(page.locator("#about .key")).to_have_text(escape_control(image["file"].removesuffix(".jpg")))
        if image["file"] == "cat/001.jpg":
            expect(page.locator("#title .class")).to_have_text(NAMES[0])
        page.keyboard.press("Enter")
    assert page.locator("svg, body script, #about :not(bdi), #title :not(bdi)").count() == 0


@pytest.mark.parametrize(
    ("size", "scheme"),
    [(PHONE, "light"), *(pytest.param(DESKTOP, scheme, marks=pytest.mark.soak) for scheme in ("light", "dark"))],
)
def test_axe_finds_nothing_and_nothing_sticks_out(visit: Open, drawn: Path, size: tuple[int, int], scheme: str) -> None:
    page = visit(size, scheme)
    open_image(page, drawn, KEYS[5])  # the long key
    drag(page, (5, 5), (30, 30))
    page.locator("summary").click()
    found = Axe().run(page, options=AXE)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.soak
def test_a_finger_draws(visit: Open, tmp_path: Path) -> None:
    page = visit(PHONE, has_touch=True, is_mobile=True)
    area = page.locator("#boxes").bounding_box()
    assert area is not None
    session = page.context.new_cdp_session(page)
    ends = [(area["x"] + area["width"] * x / 60, area["y"] + area["height"] * y / 40) for x, y in ((10, 10), (40, 30))]
    for kind, point in zip(("touchStart", "touchMove", "touchEnd"), (*ends, None), strict=True):
        points = [{"x": point[0], "y": point[1]}] if point else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(page.locator("#list button")).to_have_count(1)
    assert saved(page, tmp_path)[1]["annotations"][0]["bbox"] == pytest.approx([10, 10, 30, 20], abs=1)
    for name in ("Next", "Undo", "Save"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box is not None
        assert box["height"] >= 44
