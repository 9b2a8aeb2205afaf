"""Images to learn from and to evaluate on: by class, in no order, and never a copy on both sides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from some_features import write_features

from pipeline.head.feature_table import FeatureTable
from pipeline.head.splits import Split, few_images, hold_out
from schemas.errors import UsageError

COUNTS = (20, 5, 1)


@pytest.fixture
def table(tmp_path: Path) -> FeatureTable:
    labels = np.repeat([0, 1, 2], COUNTS)
    return write_features(tmp_path, np.zeros((len(labels), 2)), labels, 2)


def test_a_share_of_each_class_is_held_out_and_one_image_stays(table: FeatureTable) -> None:
    for share, expected in ((0.1, [2, 1, 0]), (0.5, [10, 3, 0]), (0.99, [19, 4, 0])):
        assert np.bincount(table.labels[hold_out(table, share)], minlength=3).tolist() == expected


def test_the_choice_does_not_depend_on_the_order(table: FeatureTable) -> None:
    order = np.random.default_rng(1).permutation(len(table))
    shuffled = replace(table, labels=table.labels[order], images=table.images[order])
    assert np.array_equal(hold_out(shuffled, 0.3), hold_out(table, 0.3)[order])
    everything = np.ones(len(table), bool)
    assert np.array_equal(few_images(shuffled, everything, 3), few_images(table, everything, 3)[order])


def test_so_many_different_images_of_each_class_are_chosen(table: FeatureTable) -> None:
    images = table.images.copy()
    images[:10] = images[0]  # ten copies
    copied = replace(table, images=images)
    among = np.arange(len(table)) != 25  # all but the one image of class 2
    chosen = few_images(copied, among, 15)
    assert np.bincount(table.labels[chosen], minlength=3).tolist() == [11, 5, 0]
    assert len(set(images[chosen])) == chosen.sum()


def test_copies_are_on_one_side(table: FeatureTable) -> None:
    images = table.images.copy()
    images[[3, 7, 22]] = images[0]  # 22 is of another class
    copied = replace(table, images=images)
    for share in (0.2, 0.5, 0.8):
        held_out = hold_out(copied, share)
        assert len(set(held_out[[0, 3, 7]])) == 1
        split = Split.of(copied, ~held_out, held_out)
        assert not set(images[split.training]) & set(images[split.held_out])
        assert split.repeated == (held_out & np.isin(images, images[~held_out])).sum()


@pytest.mark.parametrize(
    ("count", "fix"), [(3, "take a larger --held-out-share, or name"), (1, "the largest has 1; name")]
)
def test_classes_too_small_for_the_share_are_refused(table: FeatureTable, count: int, fix: str) -> None:
    small = few_images(table, np.ones(len(table), bool), count)
    few = replace(table, images=table.images[small], labels=table.labels[small])
    with pytest.raises(UsageError, match=rf"hold out a share of 0\.1.*{fix}"):
        hold_out(few, 0.1)


def test_nothing_left_is_refused(table: FeatureTable) -> None:
    everything, nothing = np.ones(len(table), bool), np.zeros(len(table), bool)
    with pytest.raises(UsageError, match="no image is left to evaluate on; name other shards by --held-out"):
        Split.of(table, everything, nothing)
    with pytest.raises(UsageError, match="all 26 are copies of training images"):
        Split.of(table, everything, everything)
    with pytest.raises(UsageError, match="no usable image to learn from"):
        Split.of(table, nothing, everything)
