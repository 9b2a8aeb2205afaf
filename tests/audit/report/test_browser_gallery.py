"""The gallery of the report in a real browser: what is picked, sorted and drawn is what the tables and maps say."""

from pathlib import Path

import numpy as np
import pytest
from audit.report.seen import keys, pixels, samples, settled
from browsing import DESKTOP, PHONE, Open, in_a_browser
from playwright.sync_api import Browser, expect
from report_world import BROKEN, METHODS, WRONG, Reported

from pipeline.audit.report import write_report
from pipeline.audit.report.gallery_data import ImageColumns, index_script, method_scripts
from schemas.audit_tables import MAP_STATISTICS

pytestmark = [pytest.mark.soak, in_a_browser]


@pytest.mark.parametrize(("size", "open_"), [(DESKTOP, True), (PHONE, False)])
def test_filters_are_folded_on_a_phone(visit: Open, size: tuple[int, int], open_: bool) -> None:
    expect(visit("#view=gallery", size=size).locator("#filter-class")).to_be_visible(visible=open_)


def test_filters_leave_the_rows_that_the_tables_name(visit: Open, reported: Reported) -> None:
    table = samples(reported)
    page = visit("#view=gallery")
    expect(page.locator("#matches")).to_have_text(f"{len(table)} of {len(table)} images")
    page.get_by_label("wrong predictions").check()
    wrong = table[table.label != table.prediction]
    assert len(wrong) >= len(WRONG)
    expect(page.locator("#matches")).to_have_text(f"{len(wrong)} of {len(table)} images")
    assert keys(page) == wrong.key.tolist()
    page.locator("#filter-class").select_option("3")
    assert keys(page) == wrong[wrong.label == 3].key.tolist()
    page.get_by_role("button", name="Show all").click()
    page.locator("#filter-q").fill("SCENE_0001")
    assert keys(page) == table[table.key.str.contains("scene_0001")].key.tolist()[:60]
    page.locator("#filter-q").fill(f"scene_{BROKEN:06d}")
    expect(page.locator("#matches")).to_have_text(f"0 of {len(table)} images")
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("degenerate maps").check()
    expect(page.locator("#matches")).to_have_text(f"0 of {len(table)} images")
    page.locator("#gallery-method").select_option("uniform")
    expect(page.locator("#matches")).to_have_text(f"{len(table)} of {len(table)} images")
    expect(page.locator(".card .flag").first).to_have_text("degenerate: constant")


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
    expect(page.locator("#matches")).to_have_text(f"{len(low)} of {len(by_row)} images")
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

    page.locator("#gallery-threshold").fill("0.2")
    changed("() => location.hash.includes('threshold=0.2')")
    before, after = (each.sum() for each in seen)
    assert after > before  # a lower threshold leaves more of the picture
    page.locator("#gallery-show").select_option("map")
    changed("() => location.hash.includes('show=map')")
    page.locator("#gallery-opacity").fill("0.9")
    changed("() => location.hash.includes('opacity=0.9')")
    page.locator("#gallery-method").select_option("legrad")
    changed("() => document.querySelector('.card canvas').dataset.drawn === 'legrad'")
    page.locator("#gallery-target").select_option("predicted")
    changed("() => location.hash.includes('target=predicted')")
    assert len(table[table.label != table.prediction]) == page.locator(".card").count()


def test_what_is_drawn_is_the_map_of_the_atlas(visit: Open, reported: Reported) -> None:
    """The cell with the largest value of a map is its brightest place, where nothing else is drawn."""
    page = visit("#view=gallery&show=map&opacity=1&method=legrad")
    settled(page)
    rows, columns = reported.atlas.run.model.grid
    drawn = pixels(page, ".card canvas").sum(-1, dtype=float)
    found = drawn.reshape(rows, 192 // rows, columns, 192 // columns).mean((1, 3))
    expected = reported.atlas.map(0, "legrad")
    assert np.unravel_index(found.argmax(), found.shape) == np.unravel_index(expected.argmax(), expected.shape)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9


def test_fifty_thousand_images_are_filtered_without_loading_more_than_one_sees(
    visit: Open, copy: Reported, reported: Reported
) -> None:
    count = 50_000
    many(copy.folder, reported, count)
    page = visit("#view=gallery&sort=agreement", copy.folder)
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url) if "/chunks/" in request.url else None)
    expect(page.locator("#matches")).to_have_text("50,000 of 50,000 images")
    page.locator("#filter-q").fill("image 777")
    expect(page.locator("#matches")).to_have_text("11 of 50,000 images")  # 777, 7770 … 7779
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
        "chunk": (np.arange(count) // 8 % 130).astype(np.uint32),
        "place": (np.arange(count) % 8).astype(np.uint8),
    }
    flags = np.zeros((len(METHODS), 2, count), np.uint8)
    numbers = rng.random((len(METHODS), len(MAP_STATISTICS), count), np.float32)
    columns = ImageColumns([f"image {number}" for number in range(count)], images, flags, numbers)
    (folder / "data" / "index.js").write_bytes(index_script(columns))
    for name, data in method_scripts(columns):
        (folder / name).write_bytes(data)
    shard = (folder / "data" / "chunks" / "0.js").read_text()
    for number in range(1, 130):
        (folder / "data" / "chunks" / f"{number}.js").write_text(shard.replace("chunk(0", f"chunk({number}", 1))


def test_shards_that_were_not_asked_for_lately_are_dropped(visit: Open, copy: Reported, reported: Reported) -> None:
    many(copy.folder, reported, 50_000)
    page = visit("", copy.folder)
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url.rpartition("/")[2]))
    page.evaluate("async () => { for (let number = 0; number < 120; number++) await atlas.loadChunk(number); }")
    page.evaluate("async () => { await atlas.loadChunk(0); await atlas.loadChunk(119); }")
    assert loaded.count("0.js") == 2
    assert loaded.count("119.js") == 1


def test_without_pictures_maps_are_drawn_on_grey(visit: Open, copy: Reported) -> None:
    write_report(copy.atlas, str(copy.audit), thumbnails=False)
    page = visit("#view=gallery&show=outline&method=legrad", copy.folder)
    settled(page)
    assert page.locator("#gallery-opacity").count() == 0
    assert pixels(page, ".card canvas").std() > 10
    page.locator("#gallery-method").select_option("uniform")
    page.wait_for_function("() => document.querySelector('.card canvas').dataset.drawn === 'uniform'")
    assert np.unique(pixels(page, ".card canvas").reshape(-1, 3), axis=0).tolist() == [[138, 143, 152]]


def test_a_shard_that_is_missing_is_said_and_the_rest_is_shown(browser: Browser, copy: Reported) -> None:
    (copy.folder / "data" / "chunks" / "0.js").unlink()
    page = browser.new_page()
    page.goto(f"file://{copy.folder}/index.html#view=gallery")
    expect(page.locator(".card .flag").first).to_have_text("data/chunks/0.js cannot be loaded; is the folder complete?")
    page.wait_for_function("() => document.querySelectorAll('.card canvas')[10].dataset.drawn")
    page.close()
