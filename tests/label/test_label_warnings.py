"""Labels warn: of methods that no ranking confirms, and of masks that are wrong as a whole."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import copy_atlas

from pipeline.label.label_product import MaskTotals
from pipeline.label.label_warnings import mask_warnings, review_policy
from pipeline.label.mask import Label, encode_rle
from pipeline.label.mask_statistics import frame_share, sum_statistics
from pipeline.store import Atlas
from schemas.policy import Pamr, Policy, Threshold
from schemas.rank import LocalizationScore, PolicyScore, RankedMethod, RankRecord

FINE = MaskTotals(area=0.2, ignored=0.1, left_out=0.0, border=0.2, likeness=0.3)


def label_of(mask: np.ndarray, **fields: Any) -> Label:
    return Label({}, "ok", mask_rle=encode_rle(mask), area=float(mask.mean()), ignored=0.25, **fields)


def block(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((32, 64), bool)
    mask[rows, columns] = True
    return mask


def test_statistics_are_sums_over_masks() -> None:
    middle, corner = block(slice(8, 24), slice(16, 48)), block(slice(0, 4), slice(0, 64))
    empty = block(slice(0, 0), slice(0, 0))
    labels = [label_of(middle), label_of(middle, left_out=1), label_of(corner), label_of(empty), Label({}, "no_label")]
    found = sum_statistics(labels)
    assert found == {
        "area": 0.25 + 0.25 + 0.125,
        "ignored": 1.0,
        "masks": 4,
        "left_out": 1,
        "objects": 3,
        "border": 1,
        "pairs": 2,
        "likeness": 1.0,
    }, "the second pair does not overlap"


def test_the_frame_is_an_eighth_of_each_side() -> None:
    assert frame_share(np.ones((32, 64), bool)) == 1 - 0.75**2
    assert frame_share(block(slice(4, 28), slice(8, 56))) == 0
    assert frame_share(block(slice(0, 4), slice(8, 56))) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"left_out": 0.01}, "1.0 % of the masks lack a method"),
        ({"ignored": 0.5}, "50.0 % of the pixels are ignored"),
        ({"border": 0.6}, "60.0 % of the masks lie mostly at the border"),
        ({"likeness": 0.9}, "IoU of 0.90"),
    ],
)
def test_each_sign_has_a_sentence(changes: dict[str, float], words: str) -> None:
    (found,) = mask_warnings(replace(FINE, **changes))
    assert words in found


def test_masks_that_are_fine_and_no_masks_at_all_give_no_warning() -> None:
    nothing = MaskTotals(area=None, ignored=None, left_out=None, border=None, likeness=None)
    assert [*mask_warnings(FINE), *mask_warnings(nothing)] == []


def write_ranking(
    url: Path,
    atlas: Atlas,
    verdicts: dict[str, str | None],
    localization: dict[str, tuple[float, float, float]] | None = None,
    **changes: Any,
) -> None:
    rows = [
        RankedMethod(
            method=method,
            kind="method" if verdict else "control",
            verdict=verdict,
            reason="as is said",
            rank=None,
            rank_low=None,
            rank_high=None,
            degenerate=0,
            isolated=0,
            same_for_classes=None,
            signals={},
            localization=_score(*localization[method]) if method in (localization or {}) else None,
        )
        for method, verdict in verdicts.items()
    ]
    record = RankRecord(run=atlas.run.run_hash, target="label", images=8, seed=0, signals={}, methods=tuple(rows))
    (url / "rank" / "label").mkdir(parents=True, exist_ok=True)
    (url / "rank" / "label" / "rank.json").write_bytes(record.model_copy(update=changes).to_bytes())


def _score(value: float, low: float, high: float) -> LocalizationScore:
    return LocalizationScore(score="maxboxacc_v2", value=value, low=low, high=high)


def warnings_of(url: Path, methods: Sequence[str]) -> list[str]:
    policy = Policy(name="p", methods=tuple(methods), threshold=Threshold(kind="otsu"))
    return list(review_policy(Atlas.open(str(url)), policy).warnings)


def test_methods_are_looked_up_in_the_ranking(atlas: Atlas, tmp_path: Path) -> None:
    url = copy_atlas(atlas.url, tmp_path / "atlas")
    assert warnings_of(url, ["attention", "legrad"]) == [
        "no ranking says whether attention, legrad can be trusted on this network; see vitatlas rank"
    ]
    verdicts = {"attention": "stands", "legrad": "fails", "reciprocam_single": "uncertain", "center": None}
    write_ranking(url, atlas, verdicts)
    assert warnings_of(url, ["attention"]) == []
    assert warnings_of(url, ["legrad", "attention", "reciprocam_single", "center"]) == [
        "legrad: fails in the ranking: as is said",
        "reciprocam_single: is uncertain in the ranking: as is said",
        "center: is a control, which knows less than any method should",
    ]
    assert warnings_of(url, ["uniform"]) == [
        "no ranking says whether uniform can be trusted on this network; see vitatlas rank"
    ]
    write_ranking(url, atlas, verdicts, run="sha256:0")
    assert "no ranking says whether attention" in warnings_of(url, ["attention"])[0], "it is of another run"


VERDICTS: dict[str, str | None] = {
    "attention": "uncertain",
    "legrad": "uncertain",
    "reciprocam_single": "fails",
    "center": None,
}


def test_where_there_is_truth_it_decides_and_not_the_verdict(atlas: Atlas, tmp_path: Path) -> None:
    url = copy_atlas(atlas.url, tmp_path / "atlas")
    localization = {"attention": (80, 72, 88), "legrad": (65, 55, 75), "reciprocam_single": (70, 65, 75)}
    write_ranking(url, atlas, VERDICTS, localization | {"center": (60, 55, 66)})
    assert warnings_of(url, ["attention", "legrad", "reciprocam_single", "center"]) == [
        "legrad: may localize no better than a control: maxboxacc_v2 65.0 % (55.0–75.0) by truth, center 60.0 %",
        "reciprocam_single: localizes better than every control (maxboxacc_v2 70.0 % (65.0–75.0) by truth, center "
        "60.0 %), but fails without truth: as is said",
        "center: is a control, which knows less than any method should",
    ]
    write_ranking(url, atlas, VERDICTS, localization | {"center": (80, 75, 86)})
    assert warnings_of(url, ["attention"]) == [
        "attention: localizes no better than a control: maxboxacc_v2 80.0 % (72.0–88.0) by truth, center 80.0 %"
    ]


@pytest.mark.parametrize("refined", [False, True])
def test_a_policy_that_truth_has_chosen_has_the_overlap_of_images_left_out(
    atlas: Atlas, tmp_path: Path, refined: bool
) -> None:
    url = copy_atlas(atlas.url, tmp_path / "atlas")
    score = PolicyScore(
        methods=("attention", "legrad"),
        refined=refined,
        threshold=0.425,
        overlap=0.8,
        cross_validated=0.7264,
        low=0.669,
        high=0.776,
        images=52,
        of="boxes",
    )
    write_ranking(url, atlas, VERDICTS, {"attention": (80, 72, 88), "center": (60, 55, 66)}, policy_score=score)
    policy = score.policy("label")
    assert (policy.refine == Pamr()) is refined
    review = review_policy(Atlas.open(str(url)), policy.model_copy(update={"name": "mine"}))
    assert review.warnings == ()
    assert review.choice == (
        "attention, legrad: chosen by boxes of 52 images; mean IoU 72.6 % (66.9–77.6) on images that were left out of "
        "the choice"
    )
    others = [{"threshold": Threshold(kind="otsu")}, {"methods": ("attention",)}, {"normalize": "clip"}]
    for change in others:
        review = review_policy(Atlas.open(str(url)), policy.model_copy(update=change))
        assert review.choice is None, "nothing is known of the masks of another policy"
    assert review.warnings == ("legrad: is uncertain in the ranking: as is said",), "no truth tells of it"


def test_the_command_warns_before_and_after(vitatlas, atlas: Atlas, tmp_path: Path) -> None:
    url = copy_atlas(atlas.url, tmp_path / "atlas")
    write_ranking(url, atlas, {"legrad": "fails"})
    policy = tmp_path / "policy.yaml"
    policy.write_text("{name: all, methods: [legrad], threshold: {kind: fixed, value: 0}}")
    code, out, err = vitatlas(
        "label", url, "--policy", policy, "--format", "parquet", "--out", tmp_path / "out", "--json"
    )
    assert code == 0, err
    fails, alike = json.loads(out)["warnings"]
    assert fails == "legrad: fails in the ranking: as is said"
    assert alike.startswith("the masks are nearly equal over images")
    assert err.index(f"warning  {fails}") < err.index(f"warning  {alike}")
