"""A picture of a training: each metric, step by step."""

import io

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def plot_curves(steps: pa.Table, evaluations: pa.Table) -> bytes:
    """Plot the metrics of a training against its steps.

    Args:
        steps: one row per step, one column per metric.
        evaluations: one row per evaluation on held-out images: ``step``, and one column per metric.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure  # takes a third of a second

    panels = [
        (table, name, style) for table, style in ((steps, "-"), (evaluations, "o-")) for name in table.column_names
    ]
    panels = [panel for panel in panels if panel[1] not in ("step", "batch", "left_out", "depth")]
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(12, 2 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, squeeze=False)
    for axis, (table, name, style) in zip(axes.T.flat, panels, strict=False):
        x, y = table["step"].to_numpy(), table[name].to_numpy()
        if table is steps:
            axis.plot(x, y, ".", markersize=2, alpha=0.4)
            y = _smooth(y)
        axis.plot(x, y, style, linewidth=1, markersize=3)
        axis.set_ylabel(name if table is steps else f"{name}, held out")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.suptitle(
        "dots: each step; lines: moving mean over 1/50 of the training; with markers: held-out images", fontsize=9
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _smooth(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the moving mean over 1/50 of all steps."""
    reach = max(1, len(values) // 100)
    sums = np.concatenate([[0.0], values.cumsum()])
    low, high = (np.clip(np.arange(len(values)) + shift, 0, len(values)) for shift in (-reach, reach + 1))
    return (sums[high] - sums[low]) / (high - low)
