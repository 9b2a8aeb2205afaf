"""End-to-end benchmark of a small run, from a shard to an atlas."""

import io
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from pipeline.explain.load import LoadedModel
from pipeline.read import DecoderPool, PreprocessConfig, count_samples, expand_shards, iter_batches
from pipeline.run.execution import Device
from pipeline.run.plan import make_run_record
from pipeline.run.worker import Worker
from pipeline.store import ObjectStore
from schemas.bench import EndToEndTiming
from schemas.errors import UsageError
from schemas.layout import RUN, commit_object
from schemas.run import RunSpec
from schemas.run_record import RunRecord
from schemas.shard_record import ShardRecord

_TIMED_BATCHES = 2
"""After one batch that warms up."""
_WIDTH, _HEIGHT = 500, 375
"""Size of synthetic images: the median of ImageNet."""


def bench_end_to_end(spec: RunSpec, loaded: LoadedModel, device: Device, shard: str | None = None) -> EndToEndTiming:
    """Time the first batches of a shard, from its bytes to its commit in a temporary atlas.

    Args:
        spec: to benchmark; its shards are not used.
        loaded: its model.
        device: to compute on.
        shard: path or fsspec URL; None makes synthetic images of 500 × 375 pixels.

    Raises:
        UsageError: the shard cannot be read, or none of its images has maps.
    """
    with TemporaryDirectory() as folder:
        url = shard or make_synthetic_shard(Path(folder, "synthetic.tar"), _TIMED_BATCHES * spec.batch_size)
        (shard_record,) = count_samples(expand_shards([url]), grouping=spec.grouping)
        if shard_record.fault or not shard_record.samples:
            raise UsageError(f"{url}: {shard_record.fault or 'it is empty'}; name a shard that is whole")
        shards = (
            shard_prefix(shard_record, "warm", spec.batch_size),
            shard_prefix(shard_record, "timed", _TIMED_BATCHES * spec.batch_size),
        )
        run = make_run_record(spec, loaded, shards)
        objects = ObjectStore(f"{folder}/atlas")
        objects.put(RUN, run.to_bytes())
        with Worker(objects.url, device, loaded=loaded) as worker:
            worker.process(0)
            commit = worker.process(1)
            if not commit.ok:
                raise UsageError(f"{url}: none of its first {commit.rows} samples has maps; name another shard")
            excluded: tuple[str, ...] = ("total",)
            decode_seconds = 0.0
            if spec.decode == "processes":
                excluded, decode_seconds = ("read", "total"), _time_decoding(run, worker.config)
        return EndToEndTiming(
            device="cpu" if worker.device.type == "cpu" else torch.cuda.get_device_name(worker.device),
            source=f"synthetic, {_WIDTH} × {_HEIGHT}" if shard is None else shard_record.name,
            images=commit.rows,
            targets=len(spec.target_names),
            decode=spec.decode,
            seconds={stage: seconds for stage, seconds in commit.seconds.items() if stage not in excluded},
            decode_seconds=decode_seconds,
            objects=len(commit.objects) + 1,
            bytes=sum(record.size for record in commit.objects),
            commit_bytes=len(objects.get(commit_object(commit.shard))),
        )


def _time_decoding(run: RunRecord, config: PreprocessConfig) -> float:
    """Return the seconds of one core to read and decode the last shard."""
    start = time.perf_counter()
    with DecoderPool() as decoder:
        grouping = run.spec.grouping
        for _ in iter_batches(run.shards[-1], run.slot, config, run.spec.batch_size, None, decoder, grouping=grouping):
            pass
    return time.perf_counter() - start


def shard_prefix(shard: ShardRecord, name: str, images: int) -> ShardRecord:
    """Return the first samples of a shard as a shard.

    Args:
        shard: the shard.
        name: of the result.
        images: maximum number of samples.
    """
    images = min(images, shard.samples)
    return ShardRecord(name, shard.url, images, shard.size, "the rest is left out", partial=True)


def make_synthetic_shard(path: Path, images: int) -> str:
    """Write a shard of noise images of about the size of ImageNet's, in pixels and in bytes.

    Args:
        path: of the tar.
        images: their number.

    Returns:
        The path.
    """
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(images):
            noise = Image.fromarray(rng.integers(0, 256, (_HEIGHT // 4, _WIDTH // 4, 3), np.uint8))
            jpeg = io.BytesIO()
            noise.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC).save(jpeg, "JPEG", quality=90)
            for extension, data in (("jpg", jpeg.getvalue()), ("cls", b"0")):
                member = tarfile.TarInfo(f"{number:06d}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return str(path)
