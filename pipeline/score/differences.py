"""Paired differences of scores between any two rows of a table.

All rows are of the same images, which fall into the same random groups, and each replicate of the bootstrap weights a
group alike for both rows (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8: paired data). So what
makes an image hard for both cancels out, and the interval is narrower than those of the two scores suggest.
"""

from collections.abc import Sequence
from itertools import combinations

import pyarrow as pa

from pipeline.score.aggregate import MethodScores
from pipeline.utils.bootstrap import percentile_interval
from schemas.scores import DIFFERENCES, SCORES


def difference_table(rows: Sequence[MethodScores]) -> pa.Table:
    """Return ``schemas.scores.DIFFERENCES``: each row minus every row after it, for each score that both have.

    Args:
        rows: in the order of the table.
    """
    differences = []
    for first, second in combinations(rows, 2):
        names = {
            "source": first.columns["source"],
            "method": first.columns["method"],
            "other_source": second.columns["source"],
            "other_method": second.columns["method"],
        }
        for score in SCORES:
            value, other = first.columns[score], second.columns[score]
            if value is None or other is None:
                continue
            low, high = percentile_interval(first.replicates[score] - second.replicates[score]) or (None, None)
            differences.append(names | {"score": score, "difference": value - other, "low": low, "high": high})
    return pa.Table.from_pylist(differences, schema=DIFFERENCES)
