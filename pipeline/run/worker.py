"""Worker of a run: one model that turns shards into commits."""

import socket
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.explainer import Explainer
from pipeline.explain.head_modules import ZeroShotHead, attached_module
from pipeline.explain.load import LoadedModel, load_model
from pipeline.explain.map_batch import precision_error
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.network_trace import autocast
from pipeline.explain.preprocess import Normalize
from pipeline.explain.readout import class_probabilities
from pipeline.explain.registry import methods as registry
from pipeline.explain.token_norms import summarize_norms, token_norms
from pipeline.read import (
    DecoderPool,
    ImageBatch,
    LabelRule,
    PreprocessConfig,
    ShardCache,
    TextRule,
    check_source,
    describe_source,
    iter_batches,
)
from pipeline.run.batch_class_ids import batch_class_ids
from pipeline.run.execution import Device, check_decode_device
from pipeline.run.extended_shard import ExtendedShard
from pipeline.run.gpu_decode import DeviceDecoder, to_device
from pipeline.run.plan import check_methods, check_model, package_versions
from pipeline.run.sample_columns import check_unchanged, prediction_columns, sample_columns, target_columns
from pipeline.run.sample_texts import load_text_tower, text_similarities, texts_as_classes
from pipeline.store import Atlas, ShardWriter
from pipeline.utils.timer import StageTimer
from schemas.commits import CommitRecord
from schemas.errors import CorruptShardError, UsageError
from schemas.layout import extended_url
from schemas.run import RunSpec
from schemas.samples import SampleStatus
from schemas.shard_record import SourceRecord
from schemas.targets import most_labels
from schemas.token_norms import TokenNorms

_NORM_IMAGES = 32
"""Norms of patch tokens are measured on so many images of each shard, the first ones."""
_DRIFT_IMAGES = 8
"""A run in half precision computes so many images of each shard in full precision as well."""


class ExplainedSample(NamedTuple):
    """Result of one sample.

    Attributes:
        row: its columns of the sample table, without ``row`` and ``shard``.
        maps: raw maps [K, h, w] by method, of ``RunRecord.stored_targets``; empty if the sample has none.
        extra_outputs: values [K] by the name of their array.
    """

    row: dict[str, Any]
    maps: dict[str, NDArray[Any]]
    extra_outputs: dict[str, NDArray[Any]]


class _PendingBatch(NamedTuple):
    """A batch on the device, and its results on their way to the host.

    Attributes:
        batch: the images.
        maps, extra_outputs: tensors on the host, by name: [B, K, …], of the targets that are stored.
        logits: float64 [B, C], on the host.
        probabilities: float64 [B, C], on the host; see ``class_probabilities``.
        class_ids: int64 [B, K], of all targets, on the host.
        similarities: float64 [B, T], of each image and its texts, on the host.
        wait: returns when all results have arrived.
    """

    batch: ImageBatch
    maps: dict[str, Tensor]
    extra_outputs: dict[str, Tensor]
    logits: Tensor
    probabilities: Tensor
    class_ids: Tensor
    similarities: Tensor
    wait: Callable[[], None]


class Worker:
    """Worker with a loaded model.

    Args:
        url: of the atlas.
        device: ``auto`` is a GPU if there is one.
        decode_processes: 0 decodes in a thread beside the model.
        retry_failed: in finished shards, process only the samples without maps.
        loaded: the model of the run; None loads it.
        cache: of remote shards on this node; None reads them over the network.
        lease: holder of the lease of the run, without which nothing is committed; empty: there is none.
        with_parts: explain with the methods of its parts as well; such a worker commits nothing.

    Raises:
        UsageError: there is no GPU that the run needs; or ``with_parts``, and it is a part that copies some maps.
        SpecMismatchError: the model or a method has changed.
    """

    def __init__(
        self,
        url: str,
        device: Device = "auto",
        decode_processes: int = 0,
        retry_failed: bool = False,
        loaded: LoadedModel | None = None,
        cache: ShardCache | None = None,
        lease: str = "",
        with_parts: bool = False,
    ) -> None:
        atlas, self.lease = Atlas.open(url, with_parts), lease
        self.extended = atlas.open_extended()
        self.objects, self.run, self.retry_failed, self.cache = atlas.objects, atlas.run, retry_failed, cache
        if with_parts and self.run.first_target:
            raise UsageError(f"{url}: is a part with some targets of an atlas; name that atlas, {extended_url(url)}")
        has_gpu = torch.cuda.is_available()
        if device == "cuda" and not has_gpu:
            raise UsageError("there is no GPU here that torch can use; use --device cpu, or fix its driver")
        check_decode_device(self.run.spec.decode, device, has_gpu)
        self.device = torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
        # One thread on a CPU: sums are added in the same order whatever else the machine does, so a shard that is
        # processed again gives the same bytes. More actors use more cores.
        torch.set_num_threads(1)
        loaded = loaded or load_model(self.run.spec.model)
        check_model(self.run, loaded.record, url)
        check_methods(self.run, url)
        self.model = loaded.model.to(self.device)
        self.tower = load_text_tower(self.run.spec, str(self.device))
        self.timer = StageTimer(self.device)
        methods, seed = registry.resolve(self.run.spec.methods), self.run.spec.seed
        of_model, first = (self.model, loaded.anatomy, methods, seed), self.run.first_target
        self.explainer = Explainer(*of_model, self.run.spec.precision, on_stage_end=self.timer.lap, first_target=first)
        self.full_precision_explainer = Explainer(*of_model, first_target=first)
        self.config = PreprocessConfig.for_model(self.run.model, self.run.spec.geometry, self.run.spec.exif)
        self.normalize = Normalize(self.run.model.mean, self.run.model.std, next(self.model.parameters()))
        self.decoder = self._make_decoder(decode_processes)
        self.versions = package_versions()
        self.measures_norms = False

    def _make_decoder(self, processes: int) -> DecoderPool | DeviceDecoder:
        if self.run.spec.decode == "processes":
            return DecoderPool(processes)
        return DeviceDecoder(self.device, processes, self.timer.lap)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.decoder.close()

    def process(self, shard_index: int, attempt: int = 1) -> CommitRecord:
        """Explain one shard and commit it.

        Args:
            shard_index: of the shard.
            attempt: its number, from 1.

        Returns:
            The commit of the shard; if another writer was faster, that of the other.

        Raises:
            RunFailedError: the run has lost its lease.
            CorruptShardError: the shard cannot be read as planned. Nothing of it has been written.
            OSError: the network failed for too long; another attempt may succeed.
        """
        self.measures_norms = self.extended is None  # of a part they stand in the atlas that it extends
        writer = ShardWriter(self.objects, self.run, shard_index, self.lease)
        failed = writer.resume() if self.retry_failed else None
        if writer.previous and not failed:
            return writer.previous  # another writer has already retried it
        for sample in self.explain(shard_index, failed, stored=None if failed is None else writer.rows):
            row = self.extended_shard.row(sample.row) if self.extended_shard else sample.row
            has_maps = row["status"] == SampleStatus.OK
            writer.add(row, sample.maps if has_maps else {}, sample.extra_outputs if has_maps else {})
            if self.extended_shard and has_maps:
                self.extended_shard.copy_known(row, self.explainer.one_class_methods, writer.slots)
        if failed is not None and self.sample_count != len(writer.rows):
            raise CorruptShardError(
                f"{writer.shard}: had {len(writer.rows)} samples and has {self.sample_count} now; plan another atlas"
            )
        if self.extended_shard:
            self.extended_shard.check_count(len(writer.rows), whole=True)
        copied = self.extended_shard.drift if self.extended_shard else {}
        writer.source, writer.drift = self.source, writer.drift or copied | self.drift
        writer.token_norms = writer.token_norms or self.token_norms
        return writer.commit(self.timer.seconds(), attempt, socket.gethostname(), self.versions)

    def explain(
        self,
        shard_index: int,
        ordinals: Container[int] | None = None,
        batch_size: int | None = None,
        stored: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generator[ExplainedSample, None, None]:
        """Yield the results of the samples of a shard, in their order.

        If all samples are requested, the shard must be the file that was planned. If some are, it may be another one,
        such as one that was mended, and the caller compares the images.

        Args:
            shard_index: of the shard.
            ordinals: of the samples; None is all. Whole batches are computed, so that a sample gets the same bytes as
                among all others.
            batch_size: None is that of the run; with another one the last bits may differ.
            stored: rows of all samples; those that are not requested must be as they were. None compares none.

        Raises:
            CorruptShardError, OSError: see ``process``.
        """
        shard, spec = self.run.shards[shard_index], self.run.spec
        if ordinals is not None:
            shard = shard.of_any_source()
        size = batch_size or spec.batch_size
        self.drift: dict[str, float] = {}
        self.token_norms: TokenNorms | None = None
        self.sample_count = 0
        self.timer.start()
        self.extended_shard = ExtendedShard(self.extended, self.run, shard.name) if self.extended else None
        if self.extended_shard:
            shard = self.extended_shard.read_file(shard)
        original: SourceRecord | None = None
        if self.cache and (copy := self.cache.local_path(shard.url)) != shard.url:
            original = describe_source(shard.url)
            check_source(shard, original)
            shard = replace(shard, url=copy, fingerprint=None)

        def on_source(source: SourceRecord) -> None:
            self.source = original.model_copy(update={"listing": source.listing}) if original else source

        def is_batch_needed(ordinal: int) -> bool:
            first = ordinal - ordinal % size
            return ordinals is None or any(number in ordinals for number in range(first, first + size))

        with preserve_model_state(self.model):
            previous: _PendingBatch | None = None
            for batch in iter_batches(
                shard,
                self.run.slot,
                self.config,
                size,
                self.run.model.classes,
                self.decoder,
                predicate=lambda sample: stored is not None or is_batch_needed(sample.ordinal),
                grouping=spec.grouping,
                on_source=on_source,
                texts=TextRule(spec.text_targets, self.tower.fault) if self.tower else None,
                labels=_label_rule(spec),
            ):
                self.timer.lap("read")
                self.sample_count += len(batch.samples)
                if stored is not None and ordinals is not None:
                    check_unchanged([sample for sample in batch.samples if sample.ordinal not in ordinals], stored)
                # A GPU gets the next batch before the results of the previous one are collected, so it stays busy.
                current = self._start_batch(batch) if is_batch_needed(batch.samples[0].ordinal) else None
                yield from self._collect(previous, ordinals)
                previous = current
                self.timer.lap("collect")
            yield from self._collect(previous, ordinals)
            self.timer.lap("collect")

    def _start_batch(self, batch: ImageBatch) -> _PendingBatch:
        """Queue a batch on the device without waiting for the results; one without images needs no network."""
        if all(sample.image is None for sample in batch.samples):
            nothing = torch.empty(len(batch.samples), 0)
            return _PendingBatch(batch, {}, {}, nothing, nothing, nothing, nothing, lambda: None)
        keys = [sample.key for sample in batch.samples]
        images = self.normalize(to_device(torch.as_tensor(batch.pixels), self.device))
        with self._text_classes(batch) as texts:
            class_ids = batch_class_ids(self.run, batch.samples, texts, self.device, self.extended_shard)
            maps, first = self.explainer.maps(images, class_ids, keys), self.run.first_target
            if self.run.spec.precision != "full" and not self.drift:
                few = slice(0, _DRIFT_IMAGES)
                exact = self.full_precision_explainer.maps(
                    images[few], lambda rows, _: class_ids(rows, maps.logits[rows]), keys[few]
                )
                self.drift = precision_error(
                    {name: values[few, first:] for name, values in maps.items()},
                    {name: values[:, first:] for name, values in exact.items()},
                )
                self.timer.lap("drift")
        if self.measures_norms and self.token_norms is None:
            self.token_norms = self._measure_norms(images, batch)
            self.timer.lap("norms")
        all_logits = maps.logits.double()
        logits = all_logits[:, : self.run.model.classes]
        return _PendingBatch(
            batch,
            {name: _to_host(values[:, first:]) for name, values in maps.items()},
            {name: _to_host(values[:, first:]) for name, values in maps.extra_outputs.items()},
            _to_host(logits),
            _to_host(class_probabilities(self.model, logits)),
            _to_host(class_ids(slice(None), maps.logits)),
            _to_host(text_similarities(self.model, all_logits, texts)),
            self._record_event(),
        )

    def _measure_norms(self, images: Tensor, batch: ImageBatch) -> TokenNorms | None:
        """Measure norms of tokens by one forward of a few images."""
        anatomy = self.explainer.anatomy
        if not isinstance(anatomy, Anatomy):
            return None
        shown = [place for place, sample in enumerate(batch.samples) if sample.image is not None]
        some = images[shown[: min(_NORM_IMAGES, self.explainer.max_batch_size)]]
        with autocast(images, self.run.spec.precision):
            norms = token_norms(self.model, some)
        return summarize_norms(norms[:, :, anatomy.patch_tokens].cpu().numpy())

    def _text_classes(self, batch: ImageBatch) -> AbstractContextManager[Tensor]:
        """Return a context with the class ids of the texts of a batch, int64 [B, T]; T is 0 without text targets."""
        targets, head = self.run.spec.text_targets, attached_module(self.model)
        if self.tower is None or not isinstance(head, ZeroShotHead):
            return nullcontext(torch.empty(len(batch.samples), 0, dtype=torch.int64))
        return texts_as_classes(head, self.tower, batch.samples, len(targets))

    def _record_event(self) -> Callable[[], None]:
        """Return a function that waits until the device has done everything that is queued so far."""
        if self.device.type == "cpu":
            return lambda: None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize

    def _collect(self, pending: _PendingBatch | None, ordinals: Container[int] | None) -> Iterator[ExplainedSample]:
        """Wait for a batch and yield the results of the requested samples."""
        if pending is None:
            return
        pending.wait()
        maps = {name: values.numpy() for name, values in pending.maps.items()}
        extra_outputs = {name: values.numpy() for name, values in pending.extra_outputs.items()}
        logits, probabilities = pending.logits.numpy(), pending.probabilities.numpy()
        class_ids, similarities = pending.class_ids.tolist(), pending.similarities.tolist()
        for index, sample in enumerate(pending.batch.samples):
            if ordinals is not None and sample.ordinal not in ordinals:
                continue
            row = sample_columns(sample)
            if sample.image is None:
                yield ExplainedSample(row, {}, {})
            elif not np.isfinite(logits[index]).all():
                error = "the logits are NaN or infinite"
                yield ExplainedSample(row | {"status": SampleStatus.NOT_FINITE, "error": error}, {}, {})
            else:
                yield ExplainedSample(
                    row
                    | prediction_columns(logits[index], probabilities[index], sample)
                    | target_columns(
                        self.run.spec, sample, probabilities[index], class_ids[index], similarities[index]
                    ),
                    {name: values[index] for name, values in maps.items()},
                    {name: values[index] for name, values in extra_outputs.items()},
                )


def _label_rule(spec: RunSpec) -> LabelRule:
    """Return how a run reads labels. Those that it does not explain are read for its sample table."""
    count = most_labels(spec.targets)
    most = count if count and "label" not in spec.targets else None
    return LabelRule(most, count > 0, spec.label_key, spec.label_form, spec.classes)


def _to_host(values: Tensor) -> Tensor:
    """Copy a tensor to pinned memory of the host without waiting."""
    return values.to("cpu", non_blocking=True)
