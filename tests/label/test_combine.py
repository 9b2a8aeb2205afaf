"""Several maps made one."""

import numpy as np
import pytest
from scipy.stats import rankdata

from pipeline.label.combine import combine_maps
from pipeline.label.threshold import compute_threshold
from schemas.errors import UsageError
from schemas.policy import LabelFilter, Policy, Threshold

RNG = np.random.default_rng(0)
MAPS = {name: RNG.random((6, 7)).astype(np.float32) for name in "abc"}
BOUNDS = {name: np.array([-1.0, 2.0], np.float32) for name in "abc"}


def policy(methods: str = "abc", **options) -> Policy:
    return Policy(**({"name": "p", "methods": tuple(methods), "threshold": Threshold(kind="otsu")} | options))


def stretched(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())


STACK = np.stack(list(MAPS.values())).astype(np.float64)
RANKS = np.stack([rankdata(each).reshape(6, 7) for each in STACK])


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("mean", stretched(STACK.mean(0))),
        ("rank_mean", stretched(RANKS.mean(0))),
        ("geometric", stretched(STACK.prod(0) ** (1 / 3))),
        ("agreement", np.mean([each > compute_threshold(each, Threshold(kind="otsu")) for each in MAPS.values()], 0)),
    ],
)
def test_each_way_of_combining_is_its_formula(by: str, expected: np.ndarray) -> None:
    combined, _ = combine_maps(MAPS, BOUNDS, policy(combine=by))
    assert combined.dtype == np.float32
    assert np.allclose(combined, expected, atol=1e-5)


def test_ranks_do_not_change_with_the_scale_of_a_map() -> None:
    cubed = MAPS | {"b": MAPS["b"] ** 3}
    first, second = (combine_maps(maps, BOUNDS, policy(combine="rank_mean"))[0] for maps in (MAPS, cubed))
    assert np.array_equal(first, second)


def test_one_method_is_taken_as_it_is_and_agrees_with_nobody() -> None:
    combined, agreement = combine_maps(MAPS, BOUNDS, policy("b"))
    assert np.array_equal(combined, MAPS["b"])
    assert agreement is None


def test_agreement_is_the_mean_iou_of_pairs() -> None:
    masks = [each > 0.5 for each in MAPS.values()]
    pairs = [(0, 1), (0, 2), (1, 2)]
    ious = [(masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum() for i, j in pairs]
    assert combine_maps(MAPS, BOUNDS, policy(agreement_threshold=Threshold(kind="fixed", value=0.5)))[
        1
    ] == pytest.approx(np.mean(ious))
    same = dict.fromkeys("abc", MAPS["a"])
    assert combine_maps(same, BOUNDS, policy())[1] == 1


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("minmax", MAPS["a"]),
        ("raw", MAPS["a"] * 3 - 1),
        ("max", np.clip(MAPS["a"] * 3 - 1, 0, None) / (MAPS["a"] * 3 - 1).max()),
        ("clip", stretched(np.clip(MAPS["a"], *np.percentile(MAPS["a"], (1, 99))))),
    ],
)
def test_each_normalisation_is_its_formula(how: str, expected: np.ndarray) -> None:
    assert np.allclose(combine_maps(MAPS, BOUNDS, policy("a", normalize=how))[0], expected, atol=1e-5)


@pytest.mark.parametrize("by", ["mean", "rank_mean", "geometric", "agreement"])
def test_maps_that_say_nothing_make_one_that_says_nothing(by: str) -> None:
    nothing = {name: np.zeros((3, 3), np.float32) for name in "abc"}
    combined, agreement = combine_maps(nothing, BOUNDS, policy(combine=by))
    assert not combined.any()
    assert agreement == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"methods": ("a", "a")}, "a method is named twice: a, a"),
        ({"methods": ("a",), "combine": "agreement"}, "combine: agreement and filter.agreement need at least two"),
        (
            {"methods": ("a",), "filter": LabelFilter(agreement=0.5).model_dump()},
            "combine: agreement and filter.agreement need at least two",
        ),
        (
            {"methods": ("a", "b"), "agreement_threshold": {"kind": "calibrated"}},
            "agreement_threshold applies to each method's own map",
        ),
        (
            {"methods": ("a",), "background_threshold": {"kind": "calibrated"}},
            "background_threshold can only be calibrated together",
        ),
        ({"methods": ("a",), "background_threshold": {"kind": "otsu"}}, "background_threshold is not below threshold"),
        (
            {"methods": ("a",), "threshold": {"kind": "mean"}, "background_threshold": {"kind": "mean", "scale": 2}},
            "not below threshold",
        ),
        ({"methods": ("a",), "filter": {"area": (0.5, 0.1)}}, "filter.area must be the least and the largest share"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(wrong: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Policy.read({"name": "p", "threshold": {"kind": "otsu"}} | wrong, "p.yaml")
