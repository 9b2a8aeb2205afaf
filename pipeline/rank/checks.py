"""Whether a signal is valid on a network: does the network recognise the images that the signal shows it?"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.rank.aggregate import Bootstrap, Floats, SignalMatrix, kappa
from pipeline.rank.signal import Signal
from schemas.rank import SignalCheck
from schemas.scores import is_control

_UNTRIED = (
    "could not be tried: of too few classes are the images of a shard that are read together; draw more images, by "
    "--images, or mix the classes of the shards"
)
LEAST_IMAGES = 6
"""Images that a signal must have been tried on: that fewer have one sign is likelier by chance than 2.5 %."""
LEAST_AGREEMENT = 0.2
"""Least κ, at the lower end of its interval: less is slight agreement (Landis & Koch, Biometrics 33, 1977)."""


def check_signals(
    signals: Mapping[str, Signal],
    matrices: Mapping[str, SignalMatrix],
    labels: NDArray[np.float64],
    predictions: NDArray[np.float64],
    bootstrap: Bootstrap,
) -> dict[str, SignalCheck]:
    """Decide for each signal whether it is valid.

    None is valid on a network that does not recognise whole images. Of a signal that changes images by a map, the
    images of the best method decide: if not even those are recognised, then not because maps are bad.

    Args:
        signals: that tell good methods from bad ones, by name.
        matrices: their values.
        labels: float64 [images], NaN where there is none.
        predictions: float64 [images], class of the largest logit for whole images.
        bootstrap: weights of the images.
    """
    whole = _check_whole_images(labels, predictions, bootstrap)
    checks = {name: _check(signal, matrices.get(name), bootstrap) for name, signal in signals.items()}
    if whole is not None and not whole.valid:
        return dict.fromkeys(signals, whole)
    recognised = any(check is not None and check.valid for check in checks.values())
    unlabelled = SignalCheck(
        valid=recognised,
        reason="no image has a label to compare predictions with; "
        + ("other signals are valid" if recognised else "and no other signal is valid"),
    )
    return {name: check or whole or unlabelled for name, check in checks.items()}


def _check_whole_images(labels: Floats, predictions: Floats, bootstrap: Bootstrap) -> SignalCheck | None:
    """Return whether predictions agree with labels; None without labels."""
    labelled = np.isfinite(labels)
    if not labelled.any():
        return None
    expected = np.where(labelled, labels, 0).astype(np.int64)
    return _decide(expected, np.where(labelled, predictions, np.nan), "whole images", bootstrap)


def _check(signal: Signal, matrix: SignalMatrix | None, bootstrap: Bootstrap) -> SignalCheck | None:
    """Return whether a signal is valid by the images that it shows; None if it shows none."""
    if matrix is None or not matrix.values:
        return SignalCheck(valid=False, reason="is not defined for this network or these methods")
    if not matrix.seen:
        return None if any(np.isfinite(values).any() for values in matrix.values.values()) else _untried()
    plain = bootstrap.weights[:1]
    agreements = {
        method: float(kappa(matrix.class_ids, seen, plain)[0])
        for method, seen in matrix.seen.items()
        if not is_control(method)
    }
    defined = {method: value for method, value in agreements.items() if np.isfinite(value)}
    if not defined:
        return _untried()
    best = max(defined, key=lambda method: defined[method])
    same = len({seen.tobytes() for seen in matrix.seen.values()}) == 1
    return _decide(matrix.class_ids, matrix.seen[best], signal.checked, bootstrap, None if same else best)


def _untried() -> SignalCheck:
    return SignalCheck(valid=False, reason=_UNTRIED)


def _decide(
    expected: NDArray[np.int64], seen: Floats, checked: str, bootstrap: Bootstrap, method: str | None = None
) -> SignalCheck:
    tried = int(np.isfinite(seen).sum())
    if tried < LEAST_IMAGES:
        few = f"only {tried} of at least {LEAST_IMAGES} images were tried; draw more, by --images"
        return SignalCheck(valid=False, reason=f"cannot tell whether the network recognises {checked}: {few}")
    agreements = kappa(expected, seen, bootstrap.weights)
    if not np.isfinite(agreements[0]):
        return SignalCheck(
            valid=False, reason=f"cannot tell whether the network recognises {checked}: all are of one class"
        )
    finite = agreements[1:][np.isfinite(agreements[1:])]
    low = float(np.percentile(finite, 2.5)) if len(finite) else float(agreements[0])
    valid = low >= LEAST_AGREEMENT
    verb = "recognises" if valid else "does not recognise"
    return SignalCheck(
        valid=valid,
        reason=f"the network {verb} {checked}",
        agreement=float(agreements[0]),
        low=low,
        method=method,
    )
