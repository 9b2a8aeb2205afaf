"""What one actor does: a model, and tar after tar through it."""

import socket
import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.explain.load import load
from pipeline.explain.maps import Explainer, Targets, drift
from pipeline.explain.registry import methods as registry
from pipeline.explain.undisturbed import undisturbed
from pipeline.read import Batch, Frame, Sample, batches, decoders
from pipeline.run.plan import check_artifacts, versions
from pipeline.store import Atlas, Sink
from schemas.errors import SpecDrift
from schemas.run import CommitRecord
from schemas.samples import Status

_DRIFT_IMAGES = 8
"""Images of each tar that are computed in full precision as well, where the run is in half."""


class Worker:
    """A loaded model that turns tars of a run into commits.

    Args:
        url: of the atlas.
        decode_processes: 0 decodes in a thread beside the model.
    """

    def __init__(self, url: str, decode_processes: int = 0) -> None:
        atlas = Atlas.open(url)
        self.objects, self.run = atlas.objects, atlas.run
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # On a CPU one thread an actor: sums are then added in the same order whatever the machine is
        # doing beside, and a tar that is done again gives the same bytes. More actors use more cores.
        torch.set_num_threads(1)
        loaded = load(self.run.spec.model)
        if loaded.record.weights != self.run.model.weights:
            raise SpecDrift(
                f"{url}: the weights of {loaded.record.name} were {self.run.model.weights} when it was "
                f"planned and are {loaded.record.weights} now; restore them, or plan another atlas"
            )
        check_artifacts(self.run, url)
        self.model = loaded.model.to(self.device)
        self.watch = Stopwatch(self.device)
        methods, seed = registry.resolve(self.run.spec.methods), self.run.spec.seed
        self.explainer = Explainer(
            self.model, loaded.anatomy, methods, seed, self.run.spec.precision, lap=self.watch.lap
        )
        self.exact = Explainer(self.model, loaded.anatomy, methods, seed)
        self.frame = Frame.of(self.run.model, self.run.spec.geometry)
        self.mean = torch.tensor(self.run.model.mean, device=self.device)[:, None, None]
        self.std = torch.tensor(self.run.model.std, device=self.device)[:, None, None]
        self.decoders = decoders(decode_processes)
        self.versions = versions()

    def process(self, tar_index: int, attempt: int = 1) -> CommitRecord:
        """Explain one tar and commit it.

        Raises:
            BadTar: it cannot be read as planned. Nothing of it has been written.
        """
        shard, spec = self.run.shards[tar_index], self.run.spec
        sink = Sink(self.objects, self.run, tar_index)
        classes = self.run.model.classes if "label" in spec.targets else None
        self.watch.start()
        with undisturbed(self.model):
            for batch in batches(shard, self.run.slot, self.frame, spec.batch_size, classes, self.decoders):
                self.watch.lap("read")
                self._explain(batch, sink)
                self.watch.lap("collect")
        seconds = self.watch.seconds | {"total": self.watch.total()}
        return sink.commit(seconds, attempt, socket.gethostname(), self.versions)

    def _explain(self, batch: Batch, sink: Sink) -> None:
        keys = [sample.key for sample in batch.samples]
        pixels = torch.from_numpy(batch.pixels).to(self.device, non_blocking=True)
        images = (pixels.float() / 255 - self.mean) / self.std
        labels = torch.tensor([_usable(sample.label, self.run.model.classes) for sample in batch.samples])
        targets = self._targets(labels)
        maps = self.explainer.maps(images, targets, keys)
        if self.run.spec.precision != "full" and not sink.rows:
            few = slice(0, _DRIFT_IMAGES)
            exact = self.exact.maps(images[few], lambda rows, _: targets(rows, maps.logits[rows]), keys[few])
            sink.drift = drift({name: values[few] for name, values in maps.items()}, exact)
            self.watch.lap("drift")
        arrays = {name: values.cpu().numpy() for name, values in maps.items()}
        figures = {name: values.cpu().numpy() for name, values in maps.figures.items()}
        scores = maps.logits.double().softmax(-1).cpu().numpy()
        for place, sample in enumerate(batch.samples):
            row = _row(sample)
            if sample.picture is None:
                sink.add(row, {}, {})
            elif not np.isfinite(scores[place]).all():
                sink.add(row | {"status": Status.NOT_FINITE, "error": "the logits are NaN or infinite"}, {}, {})
            else:
                row |= _predicted(scores[place], sample.label)
                sink.add(
                    row,
                    {name: values[place] for name, values in arrays.items()},
                    {name: values[place] for name, values in figures.items()},
                )

    def _targets(self, labels: Tensor) -> Targets:
        def targets(rows: slice, logits: Tensor) -> Tensor:
            choices = {"label": labels[rows].to(logits.device), "predicted": logits.argmax(1)}
            return torch.stack([choices[target] for target in self.run.spec.targets], 1)

        return targets


def _usable(label: int | None, classes: int) -> int:
    """A class that can be computed with; where there is none, the result is not kept."""
    return label if label is not None and 0 <= label < classes else 0


def _row(sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {
        "ordinal": sample.ordinal,
        "key": sample.key,
        "member": sample.member,
        "status": sample.status,
        "error": sample.error,
        "label": sample.label,
    }
    if sample.picture is None:
        return row
    picture, placement = sample.picture, sample.picture.placement
    return row | {
        "width": picture.width,
        "height": picture.height,
        "orientation": picture.orientation,
        "scale_x": placement.scale_x,
        "scale_y": placement.scale_y,
        "offset_x": placement.offset_x,
        "offset_y": placement.offset_y,
        "image_bytes": picture.size,
        "image_sha256": picture.sha256,
    }


def _predicted(probabilities: NDArray[np.float64], label: int | None) -> dict[str, Any]:
    """Columns on what the network thinks. probabilities: float64 [C]."""
    prediction = int(probabilities.argmax())
    columns: dict[str, Any] = {"prediction": prediction, "probability": float(probabilities[prediction])}
    if label is not None and 0 <= label < len(probabilities):
        columns["label_probability"] = float(probabilities[label])
        columns["label_rank"] = int((probabilities > probabilities[label]).sum())
    return columns


class Stopwatch:
    """Seconds by stage. On a GPU each lap waits for it, so that its work is counted where it was asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._begin = self._last = 0.0

    def start(self) -> None:
        """Forget everything and begin."""
        self.seconds = defaultdict(float)
        self._begin = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap to a stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._begin
