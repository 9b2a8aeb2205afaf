"""Kinds of localization errors: a drawn case of each, and the definition written out for random boxes."""

import numpy as np
import pytest

from pipeline.score.aggregate import score_method
from pipeline.score.counters import TUNING_GROUPS, ScoreCounts
from pipeline.score.error_kinds import box_error_kinds
from pipeline.score.score_shard import ScoredImage, count_boxes
from schemas.scores import ERROR_KINDS

OBJECT = [50, 50, 149, 149]
"""100 × 100 pixels."""
SECOND = [150, 50, 199, 149]
NONE = np.zeros((224, 224), bool)

# name: predicted box, true boxes, kind
CASES = {
    "the object": ([50, 50, 149, 149], [OBJECT], "correct"),
    "half of it, an IoU of 0.5": ([50, 50, 99, 149], [OBJECT], "correct"),
    "less than half of it": ([50, 50, 98, 149], [OBJECT], "part"),
    "a corner, and as much beside it": ([130, 50, 169, 149], [OBJECT], "other"),
    "a corner, and less beside it": ([130, 50, 168, 149], [OBJECT], "part"),
    "all of it, and more": ([10, 10, 189, 189], [OBJECT], "more"),
    "0.7 of it, and more": ([80, 50, 223, 149], [OBJECT], "more"),
    "less than 0.7 of it, and more": ([81, 50, 223, 149], [OBJECT], "other"),
    "elsewhere": ([200, 200, 223, 223], [OBJECT], "other"),
    "two objects": ([50, 0, 199, 223], [OBJECT, SECOND], "multi_instance"),
    "two objects, as one of them": ([50, 50, 199, 149], [OBJECT, SECOND], "correct"),
    "31 columns of one, 16 of 50 of the other": ([119, 50, 165, 149], [OBJECT, SECOND], "multi_instance"),
    "30 columns of one, 16 of 50 of the other": ([120, 50, 165, 149], [OBJECT, SECOND], "part"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_drawn_box_is_of_its_kind(name: str) -> None:
    box, truth, kind = CASES[name]
    (found,) = box_error_kinds(np.array([box]), np.array(truth))
    assert ERROR_KINDS[found] == kind


def direct_kind(box: list[int], truths: list[list[int]]) -> str:
    """The definition, with sets of pixels."""

    def pixels(corners: list[int]) -> set[tuple[int, int]]:
        x0, y0, x1, y1 = corners
        return {(x, y) for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)}

    found, objects = pixels(box), [pixels(truth) for truth in truths]
    ious = [len(found & each) / len(found | each) for each in objects]
    best = objects[ious.index(max(ious))]
    if max(ious) >= 0.5:
        return "correct"
    if sum(len(found & each) / len(each) > 0.3 for each in objects) >= 2:
        return "multi_instance"
    if len(found & best) / len(found) > 0.5:
        return "part"
    return "more" if len(found & best) / len(best) >= 0.7 else "other"


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = np.sort(rng.integers(0, 16, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


def test_random_boxes_have_the_kinds_of_the_definition() -> None:
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        boxes, truth = random_boxes(rng, 12), random_boxes(rng, int(rng.integers(1, 4)))
        kinds = [ERROR_KINDS[kind] for kind in box_error_kinds(boxes, truth)]
        assert kinds == [direct_kind(box, truth.tolist()) for box in boxes.tolist()]
        seen.update(kinds)
    assert seen == set(ERROR_KINDS) - {"classification"}


def count(kinds: dict[str, int | None]) -> ScoreCounts:
    """Counts of one box for each case, with this rank of the label; a tuning image that any threshold fits."""
    total = ScoreCounts()
    tuning = ScoredImage(TUNING_GROUPS.start, np.array([OBJECT]), None, NONE, 0, (0, 0, 1, 1))
    total.add(tuning.group, count_boxes(np.tile(np.array(OBJECT), (255, 1)), tuning))
    for group, (name, rank) in enumerate(kinds.items()):
        box, truth, _ = CASES[name]
        image = ScoredImage(group, np.array(truth), None, NONE, rank, (0, 0, 1, 1))
        total.add(group, count_boxes(np.tile(np.array(box), (255, 1)), image))
    return total


def test_the_shares_of_the_kinds_are_those_of_the_images_and_make_a_hundred() -> None:
    ranks = dict.fromkeys(CASES, 0) | {"the object": 1, "elsewhere": None, "two objects": 7}
    row = score_method("label", count(ranks)).columns
    expected = dict.fromkeys(ERROR_KINDS, 0)
    for name, rank in ranks.items():
        expected[CASES[name][2] if rank == 0 else "classification"] += 1
    shares = {kind: row["top1_loc" if kind == "correct" else f"error_{kind}"] for kind in ERROR_KINDS}
    assert shares == pytest.approx({kind: 100 * images / len(CASES) for kind, images in expected.items()})
    assert sum(shares.values()) == pytest.approx(100)
    labelled = len(CASES)  # all but one, and the tuning image
    assert row["top1_cls"] == pytest.approx(100 * (labelled - 2) / labelled)
    assert row["top5_cls"] == pytest.approx(100 * (labelled - 1) / labelled)


def test_without_a_label_there_are_no_kinds_and_a_fixed_class_has_none() -> None:
    unlabelled = score_method("label", count(dict.fromkeys(CASES))).columns
    assert {unlabelled[f"error_{kind}"] for kind in ERROR_KINDS[1:]} == {None}
    fixed = score_method("class:3", count(dict.fromkeys(CASES, 0))).columns
    assert {fixed[f"error_{kind}"] for kind in ERROR_KINDS[1:]} == {None}
    assert fixed["top1_cls"] == 100
