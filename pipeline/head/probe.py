"""Linear probe: logistic regression whose regularization is chosen on held-out images."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.explain.head_modules import LinearHead
from pipeline.head.evaluate_head import evaluate_head
from pipeline.head.feature_table import FeatureRows
from pipeline.head.logistic_regression import Fit, Scaling, fit, start_fit
from pipeline.utils.atomic_write import write_atomically
from pipeline.utils.progress import track
from pipeline.utils.tensor_file import to_safetensors
from schemas.errors import UsageError
from schemas.head import HeadRecord
from schemas.learned_head import ProbeFit


@dataclass(frozen=True)
class Probe:
    """A probe, or what of it is done.

    Attributes:
        fits: one for each strength of the regularization, from the largest to the smallest.
        last: weight and bias of the last fit, float64, on standardized features.
        best: weight and bias of the fit with the least held-out NLL, float32, on features.
    """

    fits: tuple[ProbeFit, ...]
    last: tuple[Tensor, Tensor]
    best: tuple[Tensor, Tensor]

    @property
    def chosen(self) -> ProbeFit:
        """The fit with the least held-out NLL; of equal ones the most regularized."""
        return min(self.fits, key=lambda fit: fit.held_out.nll)

    @property
    def is_past_best(self) -> bool:
        """Whether the held-out NLL has risen twice in a row: weaker regularization fits the training images alone."""
        before, middle, last = [math.inf] * 3 if len(self.fits) < 3 else [fit.held_out.nll for fit in self.fits[-3:]]
        return before < middle < last

    @classmethod
    def load(cls, path: Path, identity: str) -> Self | None:
        """Load what an interrupted command has left; None where it has left nothing.

        Args:
            path: of the checkpoint.
            identity: hash of all that decides the probe.

        Raises:
            UsageError: the checkpoint is of another probe.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("identity") != identity:
                    raise UsageError(f"{path}: is of another head; remove it, or choose another --out")
                last, best = ((file.get_tensor(f"{name}_weight"), file.get_tensor(f"{name}_bias")) for name in _FITS)
                fits = tuple(ProbeFit.read(fit, str(path)) for fit in json.loads(metadata["fits"]))
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{path}: cannot be read as a checkpoint ({error}); remove it to start again") from None
        return cls(fits, last, best)

    def save(self, path: Path, identity: str) -> None:
        """Write a checkpoint atomically; see ``load``."""
        pairs = zip(_FITS, (self.last, self.best), strict=True)
        tensors = {f"{name}_{part}": tensor for name, pair in pairs for part, tensor in zip(_PARTS, pair, strict=True)}
        fits = json.dumps([fit.model_dump(mode="json") for fit in self.fits])
        write_atomically(str(path), to_safetensors(tensors, {"identity": identity, "fits": fits}))


_FITS, _PARTS = ("last", "best"), ("weight", "bias")


def train_probe(
    training: FeatureRows,
    held_out: FeatureRows,
    record: HeadRecord,
    strengths: Sequence[float],
    device: torch.device,
    checkpoint: Path,
    identity: str,
) -> Probe:
    """Fit a probe for each strength of the regularization, and evaluate each on held-out images.

    Each fit starts from the one before, from the most regularized on, and is kept in the checkpoint; the same call goes
    on from there, to the same bytes. The rest is left out when the held-out NLL has risen twice in a row.

    Args:
        training: features and labels to learn from.
        held_out: features and labels to choose by.
        record: of the head, with its classes.
        strengths: of the regularization, see ``fit``.
        device: of the computation.
        checkpoint: path of a file.
        identity: hash of all that decides the probe.

    Raises:
        UsageError: the checkpoint is of another probe.
    """
    probe = Probe.load(checkpoint, identity)
    scaling = Scaling.measure(training, device)
    ordered = sorted(set(strengths), reverse=True)
    done = len(probe.fits) if probe else 0
    start = (
        Fit(probe.last[0].numpy(), probe.last[1].numpy(), 0, 0.0) if probe else start_fit(training, len(record.classes))
    )
    for l2 in track(ordered[done:], len(ordered) - done, "regularizations"):
        if probe and probe.is_past_best:
            break
        start = fit(training, scaling, l2, start, device)
        weight, bias = start.on_features(scaling)
        head = LinearHead(weight, bias, record)
        metrics = evaluate_head(head, held_out, device)
        result = ProbeFit(
            l2=l2, steps=start.steps, gradient=start.gradient, converged=start.converged, held_out=metrics
        )
        is_best = probe is None or metrics.nll < probe.chosen.held_out.nll
        last = (torch.from_numpy(start.weight), torch.from_numpy(start.bias))
        fits = (*(probe.fits if probe else ()), result)
        probe = Probe(fits, last, (weight, bias) if probe is None or is_best else probe.best)
        probe.save(checkpoint, identity)
    assert probe is not None
    return probe
