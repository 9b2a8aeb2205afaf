"""With truth the policy is the best of those that are tried, and what it is worth is measured on other images."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import in_one_process

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import read_policy
from pipeline.label.calibrate import mask_overlap, truth_by_shard
from pipeline.label.label_shard import iter_labels
from pipeline.rank import RankOptions, rank_atlas
from pipeline.rank.choose_policy import choose_policy
from pipeline.rank.search_policies import FOLDS, THRESHOLDS, choose, cross_validate, list_candidates, search_policies
from pipeline.store import Atlas
from pipeline.truth import TruthSet, read_truth
from schemas.policy import Pamr, Threshold
from schemas.rank import RankedMethod


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    with in_one_process():
        yield


@pytest.fixture(scope="module")
def few(world: SyntheticDataset) -> TruthSet:
    """Truth of six images in two shards."""
    truth = read_truth(world.truth)
    return truth.subset(sorted(truth)[:3] + sorted(truth)[-3:])


def test_single_methods_and_pairs_are_tried_and_the_best_ones_refined_as_well() -> None:
    candidates = list_candidates(list("abcdefgh"), (), "label")
    tried = [(policy.methods, policy.refine is not None) for policy in candidates]
    assert len(tried) == len(set(tried)) == (6 + 15) + (4 + 6)
    assert (("a", "f"), False) in tried
    assert (("a", "f"), True) not in tried
    assert (("c", "d"), True) in tried
    assert not any("g" in methods for methods, _ in tried)


def standing(method: str) -> RankedMethod:
    numbers = dict.fromkeys(("rank", "rank_low", "rank_high", "degenerate", "isolated", "same_for_classes"), 0.0)
    return RankedMethod(method=method, kind="method", verdict="stands", reason="as is said", signals={}, **numbers)


def test_what_would_be_chosen_without_truth_is_refined_too() -> None:
    candidates = list_candidates(list("abcdefgh"), ("h", "a", "g"), "label")
    tried = [(policy.methods, policy.refine is not None) for policy in candidates]
    assert len(tried) == len(set(tried)) == (6 + 15) + (6 + 15) + 1
    assert {(("h", "a", "g"), True), (("h",), True), (("h", "g"), True), (("d", "g"), True)} <= set(tried)
    assert not any("g" in methods and not refined for methods, refined in tried)
    without_truth = choose_policy([standing(name) for name in "hag"], "label", {name: name for name in "hag"})
    assert without_truth in [policy.model_copy(update={"threshold": THRESHOLDS[-1]}) for policy in candidates]


def test_the_choice_is_cross_validated() -> None:
    """Of policies that are noise, the best one on the images of the choice is no better than others on new images."""
    noise = np.random.default_rng(0).random((40, 30, 20))
    policy, threshold = choose(noise)
    assert noise[:, policy, threshold].mean() == noise.mean(0).max() > 0.6
    assert abs(cross_validate(noise, 0).mean() - 0.5) < 0.12
    noise[:, 3, 7] = 0.9
    assert (cross_validate(noise, 0) == 0.9).all()


def test_every_image_is_left_out_once() -> None:
    """Each policy is right on one image alone, so that a choice with that image is seen."""
    overlaps = np.zeros((FOLDS + 3, 2, 1))
    overlaps[:, 1, 0] = 0.1
    overlaps[4, 0, 0] = 5
    held_out = cross_validate(overlaps, 0)
    assert held_out[4] == 0.1, "without it the other policy is better"
    assert (np.delete(held_out, 4) <= 0.1).all()


@pytest.mark.parametrize(("refined", "thresholds"), [(False, THRESHOLDS), (True, THRESHOLDS), (True, THRESHOLDS[-1:])])
def test_overlaps_are_those_of_labels(
    atlas: Atlas, few: TruthSet, refined: bool, thresholds: tuple[Threshold, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["pipeline.rank.search_policies"], "THRESHOLDS", thresholds)
    candidates = [
        each for each in list_candidates(["attention", "legrad"], (), "label") if (each.refine == Pamr()) == refined
    ]
    policy, score = search_policies(atlas, few, candidates)
    overlaps = []
    for reader, shard, truths in truth_by_shard(atlas, few, "label"):
        for label in iter_labels(reader, shard, policy):
            truth = truths.find(label.sample["key"])
            if truth is not None:
                overlaps.append(mask_overlap(label, truth))
    assert (len(overlaps), score.images) == (6, 6)
    assert np.mean(overlaps) == pytest.approx(score.overlap, abs=1e-6)
    assert policy.threshold in thresholds
    assert policy == score.policy("label")
    assert (score.of, score.refined) == ("masks", refined)


def test_the_ranking_is_by_localization_and_the_policy_can_be_applied(
    atlas: Atlas, few: TruthSet, tmp_path: Path
) -> None:
    record = rank_atlas(atlas, str(tmp_path / "rank"), options=RankOptions(images=6, truth=few))
    values = [row.localization.value for row in record.methods if row.localization]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    assert record.methods[0].localization is not None
    assert record.methods[0].localization.score == "pxap"
    assert record.truth == (few.name, few.digest)
    policy = read_policy(tmp_path / "rank" / "policy.yaml")
    assert policy.methods == record.policy
    assert record.policy_score is not None
    assert policy.threshold.value == record.policy_score.threshold
    assert not policy.calibrated
