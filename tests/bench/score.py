"""What it costs to score a map: milliseconds on one core at 224 × 224, and bytes of the counts of a shard.

``smooth`` maps are blurred noise on 14 × 14, as most methods give; ``noise`` is not blurred, and has about seven times
the contours.

    python tests/bench/score.py
"""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np

from pipeline.image.score_map import score_map
from pipeline.score import pixel_metrics, segmentation_metrics
from pipeline.score.aggregate import score_method
from pipeline.score.box_metrics import largest_boxes
from pipeline.score.counters import ScoreCounts, bootstrap_group, to_npz
from pipeline.score.score_shard import ScoredImage, count_map

GRID = 14


def maps(kind: str, count: int) -> list[np.ndarray]:
    """Random maps on the patch grid."""
    rng = np.random.default_rng(0)
    noise = [rng.random((GRID, GRID)) for _ in range(count)]
    return noise if kind == "noise" else [cv2.GaussianBlur(values, (0, 0), 1.5) for values in noise]


def seconds(function: Callable[..., object], items: list) -> float:
    """CPU seconds for each item."""
    function(items[0])
    begun = time.process_time()
    for item in items:
        function(item)
    return (time.process_time() - begun) / len(items)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=int, default=60)
    count = parser.parse_args().maps
    cv2.setNumThreads(1)
    mask, nothing = np.zeros((224, 224), bool), np.zeros((224, 224), bool)
    mask[50:160, 40:170] = True
    image = ScoredImage(0, np.array([[40, 50, 169, 159], [10, 180, 60, 220]]), mask, nothing, 0, (0, 0, 1, 1))
    for kind in ("smooth", "noise"):
        values = maps(kind, count)
        scores = [score_map(map_) for map_ in values]
        parts = {
            "everything": seconds(lambda map_: count_map(map_, image), values),
            "boxes": seconds(lambda score: largest_boxes(score, image.boxes), scores),
            "histogram": seconds(lambda score: pixel_metrics.score_histogram(score, mask, nothing), scores),
            "AP": seconds(lambda score: segmentation_metrics.average_precision(score, mask, nothing), scores),
        }
        print(f"{kind:7}", *(f"{name} {1e3 * value:.1f} ms" for name, value in parts.items()), sep="  ")
    total, counts = ScoreCounts(), [count_map(map_, image) for map_ in values]
    for number in range(1000):
        total.add(bootstrap_group(str(number), False), counts[number % count])
    print(f"counts of a shard: {len(to_npz({'method': total})) / 1e3:.0f} kB a method")
    begun = time.process_time()
    score_method("label", total)
    print(f"scores with intervals: {time.process_time() - begun:.2f} s a method")


if __name__ == "__main__":
    main()
