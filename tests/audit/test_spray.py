"""Clusters of maps are those that were planted, and there is one where none were."""

import numpy as np
import pytest

from pipeline.audit.spray import cluster_maps, l1_normalize


def planted(sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy maps with a blob in a corner of their own for each group, in mixed order."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    y, x = np.mgrid[:8, :8]
    at = np.array([(1, 1), (6, 6), (1, 6)])[groups]
    blobs = np.exp(-((y - at[:, :1, None]) ** 2 + (x - at[:, 1:, None]) ** 2) / 3)
    return (blobs + 0.3 * rng.random(blobs.shape)) * rng.uniform(0.5, 2, (len(groups), 1, 1)), groups


@pytest.mark.parametrize("sizes", [(60,), (50, 30), (40, 25, 15)])
def test_planted_groups_are_found_largest_first_and_no_more(sizes: tuple[int, ...]) -> None:
    maps, groups = planted(sizes)
    found = cluster_maps(maps)
    assert np.array_equal(found.members, groups)
    assert found.eigenvalues[0] == pytest.approx(0, abs=1e-9)
    assert (np.diff(found.eigenvalues) >= 0).all()
    assert found.eigengap == found.eigenvalues[len(sizes)] - found.eigenvalues[len(sizes) - 1]
    assert found.eigengap == np.diff(found.eigenvalues)[:8].max()


def test_prototypes_are_means_of_normalised_maps_and_the_central_map_is_nearest() -> None:
    maps, groups = planted((30, 20))
    found = cluster_maps(maps)
    for each in range(2):
        normalised = (maps / maps.sum((1, 2), keepdims=True))[groups == each]
        assert np.allclose(found.prototypes[each], normalised.mean(0))
        away = np.linalg.norm(normalised - normalised.mean(0), axis=(1, 2))
        assert found.central[each] == np.flatnonzero(groups == each)[away.argmin()]


def test_the_same_maps_give_the_same_clusters_whatever_their_scale() -> None:
    maps, _ = planted((30, 20), seed=1)
    first, again = cluster_maps(maps), cluster_maps(maps * 8)
    assert np.array_equal(first.members, again.members)
    assert np.array_equal(first.embedding, again.embedding)


@pytest.mark.parametrize("count", [1, 2, 3, 12])
@pytest.mark.parametrize("kind", ["alike", "zero", "random"])
def test_few_and_degenerate_maps_are_clustered_too(count: int, kind: str) -> None:
    maps = np.random.default_rng(0).random((count, 4, 4))
    found = cluster_maps({"alike": np.repeat(maps[:1], count, 0), "zero": np.zeros_like(maps), "random": maps}[kind])
    assert found.members.shape == (count,)
    assert sorted(set(found.members)) == list(range(len(found.prototypes)))
    assert np.allclose(found.prototypes.sum((1, 2)), 1)
    assert np.isfinite(found.embedding).all()
    assert (found.members[found.central] == np.arange(len(found.central))).all()


def test_maps_are_normalised_to_sum_one_and_nothing_is_spread_evenly() -> None:
    maps = np.array([[[1, 3], [0, 4]], [[0, 0], [0, 0]]], np.float16)
    assert l1_normalize(maps).tolist() == [[[0.125, 0.375], [0, 0.5]], [[0.25, 0.25], [0.25, 0.25]]]
