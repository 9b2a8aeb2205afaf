"""Scores in one form: which way is better, who is first, where the marks of the plots lie."""

from dataclasses import replace

import pyarrow as pa
import pytest
from report_world import METHODS, Reported

from pipeline.audit.report.chart_layout import (
    COLUMN,
    LABEL,
    ROW,
    WIDTH,
    layout_dot_plot,
    layout_rank_plot,
    spread_labels,
)
from pipeline.audit.report.classes import describe_cell
from pipeline.audit.report.load_tables import read_audit
from pipeline.audit.report.page import color_class, format_value
from pipeline.audit.report.score_view import (
    LOCALIZATION,
    ScoreColumn,
    ScoreGroup,
    ScoreValue,
    collect_scores,
    describe_score,
    group_methods,
    order_methods,
    select_ranking_scores,
)
from schemas.audit_tables import METHODS as METHODS_OF
from schemas.metrics import FAITHFULNESS_METRICS, METRIC_SUMMARY, SANITY_METRICS

UP = ScoreColumn(
    "up", "higher", 1, {"a": ScoreValue(3, 2, 4), "b": ScoreValue(1), "c": ScoreValue(3), "center": ScoreValue(9)}
)
DOWN = ScoreColumn("down", "lower", 1, {"a": ScoreValue(3), "b": ScoreValue(1)})
SHAPE = ScoreColumn("shape", None, 1, {"a": ScoreValue(1)})


def test_the_best_is_first_whichever_way_is_better() -> None:
    assert UP.ranks(["a", "b", "c", "center"]) == {"a": 2.5, "b": 4, "c": 2.5, "center": 1}
    assert UP.ranks(["b", "a"]) == {"a": 1, "b": 2}
    assert DOWN.ranks(["a", "b", "c"]) == {"a": 2, "b": 1}
    assert SHAPE.ranks(["a"]) == {}


def test_the_best_are_those_whose_interval_reaches_the_best_mean_and_no_controls() -> None:
    assert (UP.best, DOWN.best, SHAPE.best) == ({"a", "c"}, {"b"}, frozenset())
    near = {"a": ScoreValue(3, 2, 4), "b": ScoreValue(2, 1, 3), "c": ScoreValue(1, 0, 2.9), "center": ScoreValue(9)}
    assert ScoreColumn("up", "higher", 1, near).best == {"a", "b"}
    far = {"a": ScoreValue(1, 0, 2), "b": ScoreValue(2, 1, 3), "c": ScoreValue(3, 1.1, 4)}
    assert ScoreColumn("down", "lower", 1, far).best == {"a", "b"}


def test_methods_stand_by_their_mean_rank_with_controls_last() -> None:
    kinds = [ScoreGroup("one", "", True, (DOWN,)), ScoreGroup("checks", "", False, (UP,))]
    assert order_methods(["center", "a", "b", "c"], select_ranking_scores(kinds)) == ["b", "a", "c", "center"]
    assert group_methods(kinds[0], ["c", "b"]) == ["b", "a"]


def test_what_the_network_answers_ranks_before_localization_and_that_before_parts_of_adcc() -> None:
    def scores(*names: str) -> tuple[ScoreColumn, ...]:
        return tuple(ScoreColumn(name, "higher", 1, {"a": ScoreValue(1)}) for name in names)

    parts, box = (
        ScoreGroup("Faithfulness", "", True, scores("coherency", "adcc")),
        ScoreGroup(LOCALIZATION, "", True, scores("PxAP")),
    )
    causal = ScoreGroup("Faithfulness", "", True, scores("coherency", "deletion", "noise_most", "sensitivity_max"))
    names = [[score.name for score in select_ranking_scores(kinds)] for kinds in ([box, causal], [box, parts], [parts])]
    assert names == [["deletion", "noise_most"], ["PxAP"], ["coherency", "adcc"]]


@pytest.mark.parametrize(
    ("images", "mapped", "text"),
    [
        (32, 1000, "(32 images, sampled at random)"),
        (1000, 1000, "(1,000 images)"),
        (4, 1000, "(4 images: too few for an interval to be trusted)"),
    ],
)
def test_a_kind_says_of_how_many_images_it_is(reported: Reported, images: int, mapped: int, text: str) -> None:
    audited = read_audit(reported.atlas, str(reported.audit), "label")
    rows = [row | {"images": images} for row in audited.faithfulness.to_pylist()]
    counts = [row | {"images": mapped} for row in audited.methods.to_pylist()]
    tables = {
        "faithfulness": pa.Table.from_pylist(rows, METRIC_SUMMARY),
        "methods": pa.Table.from_pylist(counts, METHODS_OF),
    }
    found = {group.name: group for group in collect_scores(replace(audited, **tables))}
    assert found["Faithfulness"].note.endswith(text)


def test_every_kind_of_score_is_read_and_only_of_the_audited_target(reported: Reported) -> None:
    found = {group.name: group for group in collect_scores(read_audit(reported.atlas, str(reported.audit), "label"))}
    assert list(found) == ["Localization", "Faithfulness", "Sanity", "Map statistics"]
    assert [group.ranks for group in found.values()] == [True, True, False, False]
    assert "Top-1 loc" not in {score.name for score in found["Localization"].scores}  # null of every method
    adcc, deletion = found["Faithfulness"].scores
    assert adcc.values["legrad"] == ScoreValue(pytest.approx(0.2), pytest.approx(0.15), pytest.approx(0.25))
    assert (adcc.better, deletion.better) == ("higher", "lower")
    assert set(found["Map statistics"].scores[0].values) == set(METHODS) - {"uniform"}


def test_localization_is_that_of_audited_methods_and_controls(reported: Reported) -> None:
    audited = read_audit(reported.atlas, str(reported.audit), "label")
    ((truth, table),) = audited.localization.items()
    more = [row | {"method": name} for name, row in zip(("agcam", "edges"), table.to_pylist(), strict=False)]
    tables = replace(audited, localization={truth: pa.concat_tables([table, pa.Table.from_pylist(more, table.schema)])})
    group = collect_scores(tables)[0]
    assert group_methods(group, METHODS) == [*METHODS, "whole image", "edges"]


def test_marks_lie_in_their_plots() -> None:
    plot = layout_dot_plot(UP, ["a", "x", "b"])
    assert [(dot.method, dot.y) for dot in plot.dots] == [("a", 0.5 * ROW), ("b", 2.5 * ROW)]
    assert all(0 <= x <= WIDTH for dot in plot.dots for x in (dot.x, dot.low or 0, dot.high or 0))
    assert plot.dots[0].text == "a: 3.0 (2.0 to 4.0)"
    lines = {line.method: line for line in layout_rank_plot([UP, DOWN], ["a", "b", "center"]).lines}
    assert [rank for *_, rank in lines["a"].points] == [2, 2]
    assert lines["b"].segments == ((COLUMN / 2, 2.5 * ROW, 1.5 * COLUMN, 0.5 * ROW),)
    assert lines["center"].segments == ()
    assert lines["center"].control


def test_names_of_equal_ranks_do_not_overlap_and_others_stay() -> None:
    places = spread_labels([(0, 30.0), (0, 30.0), (0, 30.0), (9, 30.0), (0, 99.0)])
    assert places == [(0, 30 - LABEL), (0, 30), (0, 30 + LABEL), (9, 30), (0, 99)]


@pytest.mark.parametrize("figure", [*FAITHFULNESS_METRICS, *SANITY_METRICS, "adcc_of_means"])
def test_every_figure_has_a_meaning(figure: str) -> None:
    assert describe_score(figure)
    assert not describe_score(figure).startswith("see ")


def test_every_column_of_a_report_has_a_meaning(reported: Reported) -> None:
    kinds = collect_scores(read_audit(reported.atlas, str(reported.audit), "label"))
    assert all(describe_score(score.name) for kind in kinds for score in kind.scores)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (1234, "1,234"),
        (-0.0001, "0.000"),
        (-1.5, "−1.500"),
        ("x", "x"),
    ],
)
def test_a_cell_says_a_value_plainly(value: object, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(("value", "shade"), [(1.0, "p10"), (0.04, "p0"), (-0.26, "n3"), (None, "none")])
def test_a_correlation_has_its_shade(value: float | None, shade: str) -> None:
    assert color_class(value) == shade


@pytest.mark.parametrize(
    ("y", "x", "words"),
    [
        (7, 0, "lower left (row 7, column 0 of 8 × 16)"),
        (0, 15, "upper right (row 0, column 15 of 8 × 16)"),
        (4, 1, "left (row 4, column 1 of 8 × 16)"),
        (1, 8, "upper (row 1, column 8 of 8 × 16)"),
        (3, 8, "middle (row 3, column 8 of 8 × 16)"),
    ],
)
def test_a_place_is_said_in_words(y: int, x: int, words: str) -> None:
    assert describe_cell(y, x, (8, 16)) == words
