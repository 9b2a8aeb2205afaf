"""The report in a real browser, from a disk: what one sees is what the tables say, and nothing of a stranger's runs."""

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from report_world import BROKEN, HOSTILE, METHODS, NAMES, WRONG, Reported

from pipeline.audit.report import report
from pipeline.audit.report.index import index_script, method_scripts
from pipeline.audit.report.shards import Columns
from pipeline.demo.scenes import SHORTCUT_CLASS
from schemas.audit import NUMBERS
from schemas.scores import CONTROLS

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; apt-get install chromium")
TIMEOUT = 10_000
"""Milliseconds that something on the page may take, where this machine is busy."""
DESKTOP, PHONE = (1280, 900), (390, 844)
AXE = {"preload": False, "resultTypes": ["violations"]}
"""Style sheets are not asked for again, and of what is in order nothing is noted down."""
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, reported: Reported) -> Iterator[Open]:
    """Open a view of the report. Whatever the console or a dialog says is a failure, and so is a request elsewhere."""
    said: list[str] = []
    contexts = []

    def visit(
        view: str = "", folder: Path = reported.folder, size: tuple[int, int] = DESKTOP, scheme: Any = "light"
    ) -> Page:
        contexts.append(
            browser.new_context(
                viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
            )
        )
        contexts[-1].set_default_timeout(TIMEOUT)
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"{error}"))
        page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(f"file://{folder}/index.html{view}")
        page.wait_for_function("() => document.body.dataset.ready")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []


def settled(page: Page) -> None:
    """Wait until every card that is in view is drawn."""
    page.wait_for_function(
        """() => [...document.querySelectorAll(".view:not([hidden]) canvas, dialog[open] canvas")].every((each) => {
             const { top, bottom } = each.getBoundingClientRect();
             return bottom < 0 || top > innerHeight || each.id || "drawn" in each.dataset;
           })"""
    )


def pixels(page: Page, selector: str) -> Any:
    """What is drawn on a canvas: uint8 [height, width, 3]."""
    data = page.eval_on_selector(selector, "(each) => each.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))


def keys(page: Page) -> list[str]:
    return page.locator("#cards .key").all_text_contents()


def samples(reported: Reported) -> Any:
    table = reported.atlas.samples().to_pandas()
    return table[table.status == "ok"]


def test_it_opens_on_the_classes_that_raise_an_alarm(visit: Open) -> None:
    page = visit()
    headings = page.locator("#overview h2").all_text_contents()
    assert headings[0] == "Suspicious classes"
    expect(page.locator(".suspect h3 a").first).to_have_attribute("href", f"#view=class&id={SHORTCUT_CLASS}")
    expect(page.locator(".suspect .tag.alarm").first).to_be_visible()
    settled(page)
    first = pixels(page, ".suspect canvas")
    assert first[-24:, :24].max(axis=(0, 1)).tolist() == [255, 255, 255]  # the marked cell, lower left
    for heading in ("Methods in numbers", "Scores and ranks", "Agreement of methods", "What was audited"):
        assert heading in headings
    assert page.locator(".measure:not([hidden]) .matrix tbody tr").count() == len(METHODS)


def test_the_headline_counts_methods_without_controls_and_leads_to_what_was_wrong(
    visit: Open, reported: Reported
) -> None:
    table = samples(reported)
    wrong = (table.label != table.prediction).sum()
    page = visit()
    expect(page.locator("h1:visible")).to_have_text("Where does this network look?")
    expect(page.locator(".lede p")).to_contain_text("3 attribution methods and 2 controls")
    expect(page.locator(".suspect .tag").first).to_contain_text("of 3 methods")
    page.locator(".lede a").click()
    expect(page.locator("#found")).to_have_text(f"{wrong} of {len(table)} images")


def test_agreement_is_shown_by_the_measure_that_is_chosen(visit: Open, reported: Reported) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(reported.audit / "agreement.parquet").to_pandas()
    table = table[table["class"].isna() & ~table["first"].isin(CONTROLS) & ~table["second"].isin(CONTROLS)]
    page = visit()
    for measure in ("spearman", "pearson", "top5", "top10", "top20", "iou"):
        page.locator("#measure").select_option(measure)
        best = table.loc[table[measure].idxmax()]
        expect(page.locator(".measure:visible")).to_have_count(1)
        expect(page.locator(".measure:visible strong")).to_have_text(
            f"{best['first']} and {best['second']}, {best[measure]:.2f}"
        )


@pytest.mark.parametrize(("size", "open_"), [(DESKTOP, True), (PHONE, False)])
def test_filters_are_folded_on_a_phone(visit: Open, size: tuple[int, int], open_: bool) -> None:
    expect(visit("#view=gallery", size=size).locator("#pick-class")).to_be_visible(visible=open_)


def test_filters_leave_the_rows_that_the_tables_name(visit: Open, reported: Reported) -> None:
    table = samples(reported)
    page = visit("#view=gallery")
    expect(page.locator("#found")).to_have_text(f"{len(table)} of {len(table)} images")
    page.get_by_label("wrong predictions").check()
    wrong = table[table.label != table.prediction]
    assert len(wrong) >= len(WRONG)
    expect(page.locator("#found")).to_have_text(f"{len(wrong)} of {len(table)} images")
    assert keys(page) == wrong.key.tolist()
    page.locator("#pick-class").select_option("3")
    assert keys(page) == wrong[wrong.label == 3].key.tolist()
    page.get_by_role("button", name="Show all").click()
    page.locator("#pick-q").fill("SCENE_0001")
    assert keys(page) == table[table.key.str.contains("scene_0001")].key.tolist()[:60]
    page.locator("#pick-q").fill(f"scene_{BROKEN:06d}")
    expect(page.locator("#found")).to_have_text(f"0 of {len(table)} images")
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("degenerate maps").check()
    expect(page.locator("#found")).to_have_text(f"0 of {len(table)} images")
    page.locator("#gallery-method").select_option("uniform")
    expect(page.locator("#found")).to_have_text(f"{len(table)} of {len(table)} images")
    expect(page.locator(".card .says").first).to_have_text("says nothing: constant")


def test_it_sorts_and_finds_high_disagreement_as_the_pairs_say(visit: Open, reported: Reported) -> None:
    import pyarrow.parquet as pq

    pairs = pq.read_table(reported.audit / "pairs").to_pandas()
    own = pairs[~pairs["first"].isin(["center", "uniform"]) & ~pairs["second"].isin(["center", "uniform"])]
    agreement = own.groupby("row").spearman.mean().astype(np.float32).sort_values(kind="stable")
    by_row = samples(reported).set_index("row")
    page = visit("#view=gallery&sort=agreement")
    assert keys(page) == by_row.loc[agreement.index[:60]].key.tolist()
    page.get_by_label("high disagreement").check()
    low = agreement[agreement <= np.quantile(agreement, 0.1)]
    expect(page.locator("#found")).to_have_text(f"{len(low)} of {len(by_row)} images")
    assert keys(page) == by_row.loc[low.index].key.tolist()


def test_method_threshold_opacity_and_target_change_what_is_drawn(visit: Open, reported: Reported) -> None:
    table = samples(reported)
    page = visit("#view=gallery&wrong=1&show=mask")
    settled(page)
    seen = [pixels(page, ".card canvas")]

    def changed(condition: str) -> None:
        page.wait_for_function(condition)
        settled(page)
        page.wait_for_timeout(150)
        seen.append(pixels(page, ".card canvas"))
        assert (seen[-1] != seen[-2]).any()

    page.locator("#gallery-cut").fill("0.2")
    changed("() => location.hash.includes('cut=0.2')")
    before, after = (each.sum() for each in seen)
    assert after > before  # a lower threshold leaves more of the picture
    page.locator("#gallery-show").select_option("map")
    changed("() => location.hash.includes('show=map')")
    page.locator("#gallery-alpha").fill("0.9")
    changed("() => location.hash.includes('alpha=0.9')")
    page.locator("#gallery-method").select_option("legrad")
    changed("() => document.querySelector('.card canvas').dataset.drawn === 'legrad'")
    page.locator("#gallery-target").select_option("predicted")
    changed("() => location.hash.includes('target=predicted')")
    assert len(table[table.label != table.prediction]) == page.locator(".card").count()


def test_what_is_drawn_is_the_map_of_the_atlas(visit: Open, reported: Reported) -> None:
    """The cell with the largest value of a map is its brightest place, where nothing else is drawn."""
    page = visit("#view=gallery&show=map&alpha=1&method=legrad")
    settled(page)
    rows, columns = reported.atlas.run.model.grid
    drawn = pixels(page, ".card canvas").sum(-1, dtype=float)
    found = drawn.reshape(rows, 192 // rows, columns, 192 // columns).mean((1, 3))
    expected = reported.atlas.map(0, "legrad")
    assert np.unravel_index(found.argmax(), found.shape) == np.unravel_index(expected.argmax(), expected.shape)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9


def test_an_address_brings_the_view_back(visit: Open) -> None:
    page = visit("#view=gallery&method=rollout&show=mask&cut=0.3&q=scene&sort=-probability&wrong=1&theme=dark")
    assert page.locator("#gallery-method").input_value() == "rollout"
    assert page.locator("#gallery-show").input_value() == "mask"
    assert page.locator("#gallery-cut").input_value() == "0.3"
    assert page.locator("#pick-q").input_value() == "scene"
    assert page.get_by_label("wrong predictions").is_checked()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.locator("#cards .key").nth(1).click()
    expect(page.locator("dialog")).to_be_visible()
    other = visit(page.evaluate("location.hash"))
    expect(other.locator("#detail-title")).to_have_text(page.locator("#detail-title").text_content())
    assert other.locator("#gallery-cut").input_value() == "0.3"
    assert other.locator("#gallery-method").input_value() == "rollout"
    other.keyboard.press("Escape")
    assert keys(other) == keys(page)
    page.go_back()
    expect(page.locator("dialog")).to_be_hidden()


@pytest.mark.parametrize(
    "hash_",
    ["view=x&method=%3Cimg%20src=x%20onerror=alert(1)%3E&cut=7&page=-3", "view=class&id=9999", "row=1e99&page=1e9"],
)
def test_a_made_up_address_does_no_harm(visit: Open, hash_: str) -> None:
    page = visit(f"#{hash_}")
    expect(page.locator("main .view:not([hidden])")).to_have_count(1)


def test_the_detail_dialog_works_by_keyboard(visit: Open) -> None:
    page = visit("#view=gallery")
    names = keys(page)
    page.locator("#cards .key").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_have_text(names[0])
    expect(page.locator("#detail-maps figure")).to_have_count(1 + len(METHODS))  # and the picture
    page.keyboard.press("ArrowRight")
    expect(page.locator("#detail-title")).to_have_text(names[1])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#detail-title")).to_have_text(names[1])
    expect(page.locator("#detail-numbers tbody tr")).to_have_count(len(METHODS))
    assert page.locator("#detail-numbers thead th").count() == 1 + len(NUMBERS)
    expect(page.locator("#detail .meanings dt")).to_have_count(len(NUMBERS))
    expect(page.locator("[title]")).to_have_count(0)  # which no finger could reach
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator("#cards .key").nth(1)).to_be_focused()


@pytest.mark.parametrize("view", ["overview", f"class&id={SHORTCUT_CLASS}"])
def test_a_suspicious_place_is_seen_without_a_map_and_a_click_opens_the_image(visit: Open, view: str) -> None:
    page = visit(f"#view={view}")
    buttons = page.locator(".view:not([hidden]) button.open")
    with_map, without = buttons.nth(0), buttons.nth(1)
    settled(page)
    drawn = [each.locator("canvas").evaluate("(each) => each.toDataURL()") for each in (with_map, without)]
    assert drawn[0] != drawn[1]
    row = without.get_attribute("data-row")
    assert row == with_map.get_attribute("data-row")
    without.click()
    expect(page.locator("dialog")).to_have_attribute("data-row", row)
    expect(page.locator("#detail-maps figcaption").first).to_have_text("picture")
    page.keyboard.press("Escape")
    expect(without).to_be_focused()


def test_every_control_is_reached_by_the_tabulator_with_a_visible_focus(visit: Open) -> None:
    page = visit("#view=gallery&wrong=1")
    wanted = page.locator("button:visible:enabled, select:visible, input:visible, a[href]:visible").count()
    reached = set()
    for _ in range(wanted + 3):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """() => { const each = document.activeElement;
                     if (each === document.body) return "none true";
                     const styles = [getComputedStyle(each), getComputedStyle(each, "::after")];
                     const seen = styles.some((style) => style.outlineStyle !== "none" && style.outlineWidth !== "0px");
                     return [[...document.querySelectorAll("*")].indexOf(each), seen].join(" "); }"""
            )
        )
    assert not [each for each in reached if each.endswith("false")]
    assert len(reached) >= wanted


def test_hostile_names_are_text_everywhere(visit: Open, reported: Reported) -> None:
    page = visit()
    expect(page.locator(".suspect h3 a").first).to_have_text(NAMES[SHORTCUT_CLASS])
    page.get_by_role("link", name="Gallery").click()
    assert keys(page)[: len(HOSTILE)] == list(HOSTILE)
    for place in range(len(HOSTILE)):
        page.locator("#cards .key").nth(place).click()
        expect(page.locator("#detail-title")).to_have_text(HOSTILE[place])
        page.keyboard.press("Escape")
    page.goto(f"{page.url.partition('#')[0]}#view=class&id=0")
    expect(page.locator("#class-title")).to_have_text(NAMES[0])
    assert page.locator("img, svg[onload], body script").count() == 0


def test_a_class_page_says_what_the_tables_say(visit: Open, reported: Reported) -> None:
    import pyarrow.parquet as pq

    page = visit(f"#view=class&id={SHORTCUT_CLASS}&method=attention")
    expect(page.locator("#class-title")).to_have_text(NAMES[SHORTCUT_CLASS])
    expect(page.locator("#class-means .choose")).to_have_count(len(METHODS))
    clusters = pq.read_table(reported.audit / "clusters.parquet").to_pandas()
    own = clusters[(clusters.method == "attention") & (clusters["class"] == SHORTCUT_CLASS)]
    expect(page.locator("#class-clusters figure")).to_have_count(len(own))
    methods = pq.read_table(reported.audit / "methods.parquet").to_pandas()
    row = methods[(methods.method == "legrad") & (methods["class"] == SHORTCUT_CLASS)].iloc[0]
    whole = methods[(methods.method == "legrad") & methods["class"].isna()].iloc[0]
    cells = page.locator("#class-numbers tr", has_text="legrad").locator("td").all_text_contents()
    assert cells[0] == f"{row.entropy:.2f} / {whole.entropy:.2f}"
    assert f"{row.images} images" in page.locator("#class-about").text_content()
    page.locator("#class-means .choose", has_text="legrad").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#class-clusters-title")).to_have_text("Clusters of legrad maps")
    expect(page.locator("#class-means .choose", has_text="legrad")).to_be_focused()


def test_fifty_thousand_images_are_filtered_without_loading_more_than_one_sees(
    visit: Open, copy: Reported, reported: Reported
) -> None:
    count = 50_000
    many(copy.folder, reported, count)
    page = visit("#view=gallery&sort=agreement", copy.folder)
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url) if "/shards/" in request.url else None)
    expect(page.locator("#found")).to_have_text("50,000 of 50,000 images")
    page.locator("#pick-q").fill("image 777")
    expect(page.locator("#found")).to_have_text("11 of 50,000 images")  # 777, 7770 … 7779
    page.get_by_label("wrong predictions").check()
    settled(page)
    assert len(loaded) <= 60


def many(folder: Path, reported: Reported, count: int) -> None:
    """Put so many images into the index of a report, whose maps are those of its first shard."""
    rng = np.random.default_rng(0)
    images = {
        "row": np.arange(count, dtype=np.float64),
        "label": rng.integers(0, 10, count, dtype=np.int32),
        "prediction": rng.integers(0, 10, count, dtype=np.int32),
        **{name: rng.random(count, np.float32) for name in ("probability", "labelProbability", "agreement")},
        "shard": (np.arange(count) // 8 % 130).astype(np.uint32),
        "place": (np.arange(count) % 8).astype(np.uint8),
    }
    flags = np.zeros((len(METHODS), 2, count), np.uint8)
    numbers = rng.random((len(METHODS), len(NUMBERS), count), np.float32)
    columns = Columns([f"image {number}" for number in range(count)], images, flags, numbers)
    (folder / "data" / "index.js").write_bytes(index_script(columns))
    for name, data in method_scripts(columns):
        (folder / name).write_bytes(data)
    shard = (folder / "data" / "shards" / "0.js").read_text()
    for number in range(1, 130):
        (folder / "data" / "shards" / f"{number}.js").write_text(shard.replace("shard(0", f"shard({number}", 1))


def test_shards_that_were_not_asked_for_lately_are_dropped(visit: Open, copy: Reported, reported: Reported) -> None:
    many(copy.folder, reported, 50_000)
    page = visit("", copy.folder)
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url.rpartition("/")[2]))
    page.evaluate("async () => { for (let number = 0; number < 120; number++) await atlas.ofShard(number); }")
    page.evaluate("async () => { await atlas.ofShard(0); await atlas.ofShard(119); }")
    assert loaded.count("0.js") == 2
    assert loaded.count("119.js") == 1


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light")], ids=["desktop", "dark", "phone"]
)
def test_axe_finds_nothing_and_nothing_sticks_out(visit: Open, size: tuple[int, int], scheme: str) -> None:
    page = visit(size=size, scheme=scheme)
    # A few cards stand for all: they are alike, and axe looks at every one.
    few = "gallery&wrong=1"
    for view in ("overview", few, f"{few}&row=12", f"class&id={SHORTCUT_CLASS}", "classes"):
        page.evaluate(f"location.hash = 'view={view}'")
        page.wait_for_function(f"() => location.hash === '#view={view}'")
        settled(page)
        found = Axe().run(page, options=AXE)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


def test_without_pictures_maps_are_drawn_on_grey(visit: Open, copy: Reported) -> None:
    report(copy.atlas.objects.url, str(copy.audit), pictures=False)
    page = visit("#view=gallery&show=outline&method=legrad", copy.folder)
    settled(page)
    assert page.locator("#gallery-alpha").count() == 0
    assert pixels(page, ".card canvas").std() > 10
    page.locator("#gallery-method").select_option("uniform")
    page.wait_for_function("() => document.querySelector('.card canvas').dataset.drawn === 'uniform'")
    assert np.unique(pixels(page, ".card canvas").reshape(-1, 3), axis=0).tolist() == [[138, 143, 152]]


def test_a_shard_that_is_missing_is_said_and_the_rest_is_shown(browser: Browser, copy: Reported) -> None:
    (copy.folder / "data" / "shards" / "0.js").unlink()
    page = browser.new_page()
    page.goto(f"file://{copy.folder}/index.html#view=gallery")
    expect(page.locator(".card .says").first).to_have_text("data/shards/0.js cannot be loaded; is the folder whole?")
    page.wait_for_function("() => document.querySelectorAll('.card canvas')[10].dataset.drawn")
    page.close()
