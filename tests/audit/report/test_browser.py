"""The report in a real browser, from a disk: what one sees is what the tables say, and nothing of a stranger's runs."""

import pytest
from audit.report.seen import keys, pixels, samples, settled
from axe_playwright_python.sync_playwright import Axe
from browsing import DESKTOP, PHONE, Open, in_a_browser
from playwright.sync_api import expect
from report_world import HOSTILE, METHODS, NAMES, Reported

from pipeline.demo.scenes import SHORTCUT_CLASS
from schemas.audit_tables import MAP_STATISTICS
from schemas.scores import CONTROLS

pytestmark = in_a_browser

AXE = {"preload": False, "resultTypes": ["violations"]}
"""Style sheets are not asked for again, and of what is in order nothing is noted down."""


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
    assert page.locator(".metric:not([hidden]) .matrix tbody tr").count() == len(METHODS)


@pytest.mark.soak
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
    expect(page.locator("#matches")).to_have_text(f"{wrong} of {len(table)} images")


@pytest.mark.soak
def test_agreement_is_shown_by_the_measure_that_is_chosen(visit: Open, reported: Reported) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(reported.audit / "agreement.parquet").to_pandas()
    table = table[table["class"].isna() & ~table["first"].isin(CONTROLS) & ~table["second"].isin(CONTROLS)]
    page = visit()
    for measure in ("spearman", "pearson", "top5", "top10", "top20", "iou"):
        page.locator("#metric").select_option(measure)
        best = table.loc[table[measure].idxmax()]
        expect(page.locator(".metric:visible")).to_have_count(1)
        expect(page.locator(".metric:visible strong")).to_have_text(
            f"{best['first']} and {best['second']}, {best[measure]:.2f}"
        )


@pytest.mark.soak
def test_an_address_brings_the_view_back(visit: Open) -> None:
    page = visit("#view=gallery&method=rollout&show=mask&threshold=0.3&q=scene&sort=-probability&wrong=1&theme=dark")
    assert page.locator("#gallery-method").input_value() == "rollout"
    assert page.locator("#gallery-show").input_value() == "mask"
    assert page.locator("#gallery-threshold").input_value() == "0.3"
    assert page.locator("#filter-q").input_value() == "scene"
    assert page.get_by_label("wrong predictions").is_checked()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.locator("#cards .key").nth(1).click()
    expect(page.locator("dialog")).to_be_visible()
    other = visit(page.evaluate("location.hash"))
    expect(other.locator("#detail-title")).to_have_text(page.locator("#detail-title").text_content())
    assert other.locator("#gallery-threshold").input_value() == "0.3"
    assert other.locator("#gallery-method").input_value() == "rollout"
    other.keyboard.press("Escape")
    assert keys(other) == keys(page)
    page.go_back()
    expect(page.locator("dialog")).to_be_hidden()


@pytest.mark.soak
@pytest.mark.parametrize(
    "hash_",
    [
        "view=x&method=%3Cimg%20src=x%20onerror=alert(1)%3E&threshold=7&page=-3",
        "view=class&id=9999",
        "row=1e99&page=1e9",
    ],
)
def test_a_made_up_address_does_no_harm(visit: Open, hash_: str) -> None:
    page = visit(f"#{hash_}")
    expect(page.locator("main .view:not([hidden])")).to_have_count(1)


@pytest.mark.soak
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
    expect(page.locator("#detail-statistics tbody tr")).to_have_count(len(METHODS))
    assert page.locator("#detail-statistics thead th").count() == 1 + len(MAP_STATISTICS)
    expect(page.locator("#detail .descriptions dt")).to_have_count(len(MAP_STATISTICS))
    expect(page.locator("[title]")).to_have_count(0)  # which no finger could reach
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator("#cards .key").nth(1)).to_be_focused()


@pytest.mark.soak
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
    expect(page.locator("#detail-maps figcaption").first).to_have_text("image")
    page.keyboard.press("Escape")
    expect(without).to_be_focused()


@pytest.mark.soak
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


@pytest.mark.soak
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
    cells = page.locator("#class-statistics tr", has_text="legrad").locator("td").all_text_contents()
    assert cells[0] == f"{row.entropy:.2f} / {whole.entropy:.2f}"
    assert f"{row.images} images" in page.locator("#class-about").text_content()
    page.locator("#class-means .choose", has_text="legrad").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#class-clusters-title")).to_have_text("Clusters of legrad maps")
    expect(page.locator("#class-means .choose", has_text="legrad")).to_be_focused()


@pytest.mark.soak
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
