"""Spectral relevance analysis: the ways in which a network looks at the pictures of one class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.csgraph import laplacian
from sklearn.cluster import KMeans
from sklearn.neighbors import kneighbors_graph

NEIGHBOURS = 10
"""To which each map is joined; twice the logarithm of some hundred maps, see von Luxburg (2007), section 8.2."""
EIGENVALUES = 16
"""That are kept of the Laplacian."""
MOST_CLUSTERS = 8


@dataclass(frozen=True)
class SprayClusters:
    """Groups of the maps of one class, largest first.

    Attributes:
        members: int64 [n], the cluster of each map.
        prototypes: float64 [c, h, w], mean of the normalised maps of each cluster.
        central: int64 [c], of each the map that is nearest to its prototype.
        eigenvalues: float64 [e], least of the normalised Laplacian, from 0 up. Where it is cut into c clusters there
            is a gap behind the c-th of them.
        embedding: float64 [n, d], eigenvectors of the first eigenvalues, at most 8. Clusters were found in the first c
            of these coordinates, of each map scaled to length 1.
    """

    members: NDArray[np.int64]
    prototypes: NDArray[np.float64]
    central: NDArray[np.int64]
    eigenvalues: NDArray[np.float64]
    embedding: NDArray[np.float64]

    @property
    def gap(self) -> float:
        """Between the eigenvalues behind which the clusters were cut; 0 where there are no more of them."""
        count = len(self.prototypes)
        return float(self.eigenvalues[count] - self.eigenvalues[count - 1]) if count < len(self.eigenvalues) else 0.0


def l1_normalize(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Maps [n, h, w] ≥ 0 as float64, each with the sum 1; a map that is 0 everywhere is uniform."""
    maps = maps.astype(np.float64)
    total = maps.sum((1, 2), keepdims=True)
    uniform = 1 / (maps.shape[1] * maps.shape[2])
    return np.where(total > 0, maps / np.where(total > 0, total, 1), uniform)


def cluster_maps(maps: NDArray[np.floating]) -> SprayClusters:
    """Cluster maps as SpRAy does (Lapuschkin et al., Nature Communications 2019, «Spectral Relevance Analysis»).

    Maps are L1-normalised; each is joined to its nearest neighbours, and these to it; the first eigenvectors of the
    normalised Laplacian of that graph, rows scaled to length 1, are clustered by k-means (Ng, Jordan and Weiss, NIPS
    2001). How many clusters there are says the largest gap between successive eigenvalues (von Luxburg, Statistics
    and Computing 2007, section 8.3); it may say one. Takes O(n²) memory.

    Args:
        maps: [n, h, w] ≥ 0, n ≥ 1.
    """
    normalised = l1_normalize(maps)
    flat = normalised.reshape(len(normalised), normalised.shape[1] * normalised.shape[2])
    if len(maps) <= 2:
        values, vectors = np.zeros(1), np.ones((len(maps), 1))
    else:
        graph = kneighbors_graph(flat, min(NEIGHBOURS, len(maps) - 1))
        last = min(EIGENVALUES, len(maps)) - 1
        values, vectors = eigh(
            laplacian(graph.maximum(graph.T), normed=True).toarray(), subset_by_index=[0, last], driver="evr"
        )
    count = int(np.diff(values)[:MOST_CLUSTERS].argmax()) + 1 if len(values) > 1 else 1
    scaled = vectors[:, :count] / np.linalg.norm(vectors[:, :count], axis=1, keepdims=True).clip(1e-12)
    found = KMeans(count, n_init=10, random_state=0).fit_predict(scaled) if count > 1 else np.zeros(len(maps), int)
    _, found, sizes = np.unique(found, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    members = rank[found]
    prototypes = np.stack([normalised[members == each].mean(0) for each in range(len(sizes))])
    away = np.linalg.norm(normalised - prototypes[members], axis=(1, 2))
    central = np.array([np.where(members == each, away, np.inf).argmin() for each in range(len(sizes))], np.int64)
    return SprayClusters(members, prototypes, central, values.clip(0), vectors[:, :MOST_CLUSTERS])
