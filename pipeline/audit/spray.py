"""Spectral relevance analysis (SpRAy): clusters of the attribution maps of one class."""

from dataclasses import dataclass
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

NUM_NEIGHBORS = 10
"""Neighbors of each map in the graph: twice the logarithm of a few hundred maps; von Luxburg (2007), section 8.2."""
NUM_EIGENVALUES = 16
"""Number of eigenvalues of the Laplacian that are computed."""
MAX_CLUSTERS = 8


@dataclass(frozen=True)
class SprayClusters:
    """Clusters of the maps of one class, largest first.

    Attributes:
        members: int64 [n], the cluster of each map.
        prototypes: float64 [c, h, w], mean of the normalized maps of each cluster.
        central: int64 [c], index of the map that is nearest to each prototype.
        eigenvalues: float64 [e], least eigenvalues of the normalized Laplacian, ascending from 0. For c clusters there
            is a gap behind the c-th of them.
        embedding: float64 [n, d], eigenvectors of the first eigenvalues, at most 8. Clusters are found in the first c
            of these coordinates, scaled to length 1 for each map.
    """

    members: NDArray[np.int64]
    prototypes: NDArray[np.float64]
    central: NDArray[np.int64]
    eigenvalues: NDArray[np.float64]
    embedding: NDArray[np.float64]

    @property
    def eigengap(self) -> float:
        """Gap between the eigenvalues by which the number of clusters was chosen; 0 if there are no more of them."""
        count = len(self.prototypes)
        return float(self.eigenvalues[count] - self.eigenvalues[count - 1]) if count < len(self.eigenvalues) else 0.0


def l1_normalize(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return maps [n, h, w] ≥ 0 as float64 with sum 1; a map that is 0 everywhere becomes uniform."""
    maps = maps.astype(np.float64)
    total = maps.sum((1, 2), keepdims=True)
    uniform = 1 / (maps.shape[1] * maps.shape[2])
    return np.where(total > 0, maps / np.where(total > 0, total, 1), uniform)


def import_packages() -> None:
    """Import what ``cluster_maps`` needs: for more than a second, so not with this module."""
    import_module("scipy.linalg")
    import_module("scipy.sparse.csgraph")
    import_module("sklearn.cluster")
    import_module("sklearn.neighbors")


def cluster_maps(maps: NDArray[np.floating]) -> SprayClusters:
    """Cluster maps by SpRAy (Lapuschkin et al., Nature Communications 2019).

    Maps are L1-normalized and joined to their nearest neighbors in a symmetric graph; the first eigenvectors of its
    normalized Laplacian, rows scaled to length 1, are clustered by k-means (Ng, Jordan and Weiss, NIPS 2001). The
    largest gap between successive eigenvalues gives the number of clusters, which may be one (von Luxburg, Statistics
    and Computing 2007, section 8.3). Takes O(n²) memory.

    Args:
        maps: [n, h, w] ≥ 0, n ≥ 1.
    """
    from scipy.linalg import eigh
    from scipy.sparse.csgraph import laplacian
    from sklearn.cluster import KMeans
    from sklearn.neighbors import kneighbors_graph

    normalized = l1_normalize(maps)
    flat = normalized.reshape(len(normalized), normalized.shape[1] * normalized.shape[2])
    if len(maps) <= 2:
        values, vectors = np.zeros(1), np.ones((len(maps), 1))
    else:
        graph = kneighbors_graph(flat, min(NUM_NEIGHBORS, len(maps) - 1))
        last = min(NUM_EIGENVALUES, len(maps)) - 1
        values, vectors = eigh(
            laplacian(graph.maximum(graph.T), normed=True).toarray(), subset_by_index=[0, last], driver="evr"
        )
    count = int(np.diff(values)[:MAX_CLUSTERS].argmax()) + 1 if len(values) > 1 else 1
    scaled = vectors[:, :count] / np.linalg.norm(vectors[:, :count], axis=1, keepdims=True).clip(1e-12)
    labels = KMeans(count, n_init=10, random_state=0).fit_predict(scaled) if count > 1 else np.zeros(len(maps), int)
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    members = rank[labels]
    clusters = range(len(sizes))
    prototypes = np.stack([normalized[members == cluster].mean(0) for cluster in clusters])
    distances = np.linalg.norm(normalized - prototypes[members], axis=(1, 2))
    central = np.array([np.where(members == cluster, distances, np.inf).argmin() for cluster in clusters], np.int64)
    return SprayClusters(members, prototypes, central, values.clip(0), vectors[:, :MAX_CLUSTERS])
