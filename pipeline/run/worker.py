"""What one actor does: a model, and shard after shard through it."""

import socket
from collections.abc import Callable, Container, Generator, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.explain.explainer import ClassIdsFn, Explainer, precision_error
from pipeline.explain.load import LoadedModel, load_model
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.preprocess import Normalize
from pipeline.explain.registry import methods as registry
from pipeline.read import DecodedSample, DecoderPool, ImageBatch, PreprocessConfig, ShardCache, iter_batches
from pipeline.run.execution import Device, check_decoding
from pipeline.run.gpu_decode import DeviceDecoders, sent
from pipeline.run.plan import check_artifacts, versions
from pipeline.store import Atlas, ShardWriter
from pipeline.utils.timer import StageTimer
from schemas.commits import CommitRecord
from schemas.errors import CorruptShardError, SpecMismatchError, UsageError
from schemas.samples import SampleStatus

_DRIFT_IMAGES = 8
"""Images of each shard that are computed in full precision as well, where the run is in half."""


class Explained(NamedTuple):
    """What a run says of one sample.

    Attributes:
        row: its columns of the sample table, but for ``row`` and ``shard``.
        maps: raw maps [K, h, w] by method; none where the sample has none.
        extra_outputs: numbers [K] by the name of their array.
    """

    row: dict[str, Any]
    maps: dict[str, NDArray[Any]]
    extra_outputs: dict[str, NDArray[Any]]


class _Begun(NamedTuple):
    """A batch that was given to the device, and what is on its way back.

    Attributes:
        maps, extra_outputs: tensors [B, K, …] on the host, by name.
        scores: float64 [B, C], softmax of the logits, on the host.
        wait: returns when all of these are there.
    """

    batch: ImageBatch
    maps: dict[str, Tensor]
    extra_outputs: dict[str, Tensor]
    scores: Tensor
    wait: Callable[[], None]


class Worker:
    """A loaded model that turns shards of a run into commits.

    Args:
        url: of the atlas.
        device: ``auto`` is a GPU where there is one.
        decode_processes: 0 decodes in a thread beside the model.
        retry_failed: of a shard that is done, do the samples again that have no maps, and only those.
        loaded: the network of the run, where it is at hand; None loads it.
        cache: of remote shards on this node; None reads them over the network.
    """

    def __init__(
        self,
        url: str,
        device: Device = "auto",
        decode_processes: int = 0,
        retry_failed: bool = False,
        loaded: LoadedModel | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        atlas = Atlas.open(url)
        self.objects, self.run, self.retry_failed, self.cache = atlas.objects, atlas.run, retry_failed, cache
        gpu = torch.cuda.is_available()
        if device == "cuda" and not gpu:
            raise UsageError("there is no GPU here that torch can use; say --device cpu, or mend its driver")
        check_decoding(self.run.spec.decode, device, gpu)
        self.device = torch.device("cuda" if gpu and device != "cpu" else "cpu")
        # On a CPU one thread an actor: sums are then added in the same order whatever the machine is
        # doing beside, and a shard that is done again gives the same bytes. More actors use more cores.
        torch.set_num_threads(1)
        loaded = loaded or load_model(self.run.spec.model)
        if loaded.record.weights != self.run.model.weights:
            raise SpecMismatchError(
                f"{url}: the weights of {loaded.record.name} were {self.run.model.weights} when it was "
                f"planned and are {loaded.record.weights} now; restore them, or plan another atlas"
            )
        check_artifacts(self.run, url)
        self.model = loaded.model.to(self.device)
        self.watch = StageTimer(self.device)
        methods, seed = registry.resolve(self.run.spec.methods), self.run.spec.seed
        self.explainer = Explainer(
            self.model, loaded.anatomy, methods, seed, self.run.spec.precision, on_stage_end=self.watch.lap
        )
        self.exact = Explainer(self.model, loaded.anatomy, methods, seed)
        self.frame = PreprocessConfig.for_model(self.run.model, self.run.spec.geometry)
        self.normalise = Normalize(self.run.model.mean, self.run.model.std, next(self.model.parameters()))
        self.decoders = self._decoders(decode_processes)
        self.versions = versions()

    def _decoders(self, processes: int) -> DecoderPool | DeviceDecoders:
        if self.run.spec.decode == "processes":
            return DecoderPool(processes)
        return DeviceDecoders(self.device, processes, self.watch.lap)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.decoders.close()

    def process(self, shard_index: int, attempt: int = 1) -> CommitRecord:
        """Explain one shard and commit it.

        Raises:
            CorruptShardError: it cannot be read as planned. Nothing of it has been written.
            OSError: a network failed for longer than it was waited for; another attempt may succeed.
        """
        sink = ShardWriter(self.objects, self.run, shard_index)
        again = sink.resume() if self.retry_failed else None
        for explained in self.explain(shard_index, again):
            sink.add(*explained)
        if again is not None and self.samples != len(sink.rows):
            raise CorruptShardError(
                f"{sink.shard}: had {len(sink.rows)} samples and has {self.samples} now; plan another atlas"
            )
        sink.drift = self.drift or sink.drift
        return sink.commit(self.watch.seconds(), attempt, socket.gethostname(), self.versions)

    def explain(
        self, shard_index: int, wanted: Container[int] | None = None, batch_size: int | None = None
    ) -> Generator[Explained, None, None]:
        """What the run says of the samples of a shard, in their order.

        Args:
            wanted: their ordinals; None is all. Whole batches are computed, so that a sample gets the very
                bytes that it gets among all others.
            batch_size: None is the run's; with another one the last bits may differ.

        Raises:
            CorruptShardError, OSError: see ``process``.
        """
        shard, spec = self.run.shards[shard_index], self.run.spec
        classes = self.run.model.classes if "label" in spec.targets else None
        size = batch_size or spec.batch_size
        self.drift: dict[str, float] = {}
        self.samples = 0
        self.watch.start()
        if self.cache:
            shard = replace(shard, url=self.cache.local_path(shard.url))

        def needed(ordinal: int) -> bool:
            first = ordinal - ordinal % size
            return wanted is None or any(each in wanted for each in range(first, first + size))

        with preserve_model_state(self.model):
            before: _Begun | None = None
            for batch in iter_batches(
                shard,
                self.run.slot,
                self.frame,
                size,
                classes,
                self.decoders,
                predicate=lambda sample: needed(sample.ordinal),
            ):
                self.watch.lap("read")
                self.samples += len(batch.samples)
                # A GPU has the next batch before what it made of the last one is looked at, and works meanwhile.
                begun = self._begin(batch) if needed(batch.samples[0].ordinal) else None
                yield from self._results(before, wanted)
                before = begun
                self.watch.lap("collect")
            yield from self._results(before, wanted)
            self.watch.lap("collect")

    def _begin(self, batch: ImageBatch) -> _Begun:
        """Give a batch to the device. Nothing waits for what comes of it."""
        keys = [sample.key for sample in batch.samples]
        images = self.normalise(sent(torch.as_tensor(batch.pixels), self.device))
        labels = torch.tensor([_usable(sample.label, self.run.model.classes) for sample in batch.samples])
        targets = self._targets(sent(labels, self.device))
        maps = self.explainer.maps(images, targets, keys)
        if self.run.spec.precision != "full" and batch.samples[0].ordinal == 0:
            few = slice(0, _DRIFT_IMAGES)
            exact = self.exact.maps(images[few], lambda rows, _: targets(rows, maps.logits[rows]), keys[few])
            self.drift = precision_error({name: values[few] for name, values in maps.items()}, exact)
            self.watch.lap("drift")
        return _Begun(
            batch,
            {name: _home(values) for name, values in maps.items()},
            {name: _home(values) for name, values in maps.extra_outputs.items()},
            _home(maps.logits.double().softmax(-1)),
            self._mark(),
        )

    def _mark(self) -> Callable[[], None]:
        """What waits until the device has done all that it was given so far."""
        if self.device.type == "cpu":
            return lambda: None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize

    def _results(self, begun: _Begun | None, wanted: Container[int] | None) -> Iterator[Explained]:
        """What has become of the wanted samples of a batch, once it is done."""
        if begun is None:
            return
        begun.wait()
        arrays = {name: values.numpy() for name, values in begun.maps.items()}
        extra_outputs = {name: values.numpy() for name, values in begun.extra_outputs.items()}
        scores = begun.scores.numpy()
        for place, sample in enumerate(begun.batch.samples):
            if wanted is not None and sample.ordinal not in wanted:
                continue
            row = _row(sample)
            if sample.image is None:
                yield Explained(row, {}, {})
            elif not np.isfinite(scores[place]).all():
                error = "the logits are NaN or infinite"
                yield Explained(row | {"status": SampleStatus.NOT_FINITE, "error": error}, {}, {})
            else:
                yield Explained(
                    row | _predicted(scores[place], sample.label),
                    {name: values[place] for name, values in arrays.items()},
                    {name: values[place] for name, values in extra_outputs.items()},
                )

    def _targets(self, labels: Tensor) -> ClassIdsFn:
        def targets(rows: slice, logits: Tensor) -> Tensor:
            choices = {"label": labels[rows], "predicted": logits.argmax(1)}
            return torch.stack([choices[target] for target in self.run.spec.targets], 1)

        return targets


def _home(values: Tensor) -> Tensor:
    """A tensor on the host, or on its way there, into memory that a GPU writes to by itself."""
    return values.to("cpu", non_blocking=True)


def _usable(label: int | None, classes: int) -> int:
    """A class that can be computed with; where there is none, the result is not kept."""
    return label if label is not None and 0 <= label < classes else 0


def _row(sample: DecodedSample) -> dict[str, Any]:
    row: dict[str, Any] = {
        "ordinal": sample.ordinal,
        "key": sample.key,
        "member": sample.member,
        "status": sample.status,
        "error": sample.error,
        "label": sample.label,
    }
    if sample.image is None:
        return row
    picture, placement = sample.image, sample.image.transform
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
        "fallback": picture.fallback,
    }


def _predicted(probabilities: NDArray[np.float64], label: int | None) -> dict[str, Any]:
    """Columns on what the network thinks. probabilities: float64 [C]."""
    prediction = int(probabilities.argmax())
    columns: dict[str, Any] = {"prediction": prediction, "probability": float(probabilities[prediction])}
    if label is not None and 0 <= label < len(probabilities):
        columns["label_probability"] = float(probabilities[label])
        columns["label_rank"] = int((probabilities > probabilities[label]).sum())
    return columns
