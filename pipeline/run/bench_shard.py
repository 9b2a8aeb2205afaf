"""A small run with everything in it, timed: what ``vitatlas bench`` knows of reading and writing."""

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
from pipeline.run.plan import freeze
from pipeline.run.worker import Worker
from pipeline.store import ObjectStore
from schemas.bench import EndToEndTiming
from schemas.errors import UsageError
from schemas.layout import RUN, commit_object
from schemas.run import RunRecord, RunSpec, ShardRecord

_BATCHES = 2
"""That are timed, after one that warms up."""
_WIDTH, _HEIGHT = 500, 375
"""Of drawn pictures: the middle of ImageNet, and of as many bytes."""


def pilot(spec: RunSpec, loaded: LoadedModel, device: Device, shard: str | None = None) -> EndToEndTiming:
    """Explain the first pictures of a shard into an atlas that is thrown away.

    Args:
        spec: what is asked for; its shards are not looked at.
        loaded: its network.
        shard: path or fsspec URL; None draws pictures of 500 × 375 pixels.

    Raises:
        UsageError: the shard cannot be read, or none of its pictures has maps.
    """
    with TemporaryDirectory() as folder:
        url = shard or drawn(Path(folder, "drawn.tar"), _BATCHES * spec.batch_size)
        (whole,) = count_samples(expand_shards([url]))
        if whole.fault or not whole.samples:
            raise UsageError(f"{url}: {whole.fault or 'it is empty'}; name a shard that is whole")
        shards = (first(whole, "warm", spec.batch_size), first(whole, "timed", _BATCHES * spec.batch_size))
        run = freeze(spec, loaded, shards)
        objects = ObjectStore(f"{folder}/atlas")
        objects.put(RUN, run.to_bytes())
        with Worker(objects.url, device, loaded=loaded) as worker:
            worker.process(0)
            commit = worker.process(1)
            if not commit.ok:
                raise UsageError(f"{url}: none of its first {commit.rows} samples has maps; name another shard")
            aside: tuple[str, ...] = ("total",)
            decoding = 0.0
            if spec.decode == "processes":
                aside, decoding = ("read", "total"), _decoding(run, worker.frame)
        return EndToEndTiming(
            device="cpu" if worker.device.type == "cpu" else torch.cuda.get_device_name(worker.device),
            source=f"drawn, {_WIDTH} × {_HEIGHT}" if shard is None else whole.name,
            images=commit.rows,
            targets=len(spec.targets),
            decode=spec.decode,
            seconds={stage: took for stage, took in commit.seconds.items() if stage not in aside},
            decode_seconds=decoding,
            objects=len(commit.objects) + 1,
            bytes=sum(each.size for each in commit.objects),
            commit_bytes=len(objects.get(commit_object(commit.shard))),
        )


def _decoding(run: RunRecord, frame: PreprocessConfig) -> float:
    """Seconds of one core to read and decode the last shard."""
    begun = time.perf_counter()
    with DecoderPool() as decoders:
        for _ in iter_batches(run.shards[-1], run.slot, frame, run.spec.batch_size, None, decoders):
            pass
    return time.perf_counter() - begun


def first(whole: ShardRecord, name: str, images: int) -> ShardRecord:
    """The first images of a shard as a shard."""
    images = min(images, whole.samples)
    return ShardRecord(name, whole.url, images, whole.size, "the rest is left out", partial=True)


def drawn(path: Path, images: int) -> str:
    """A shard of pictures as large as ImageNet's, in pixels and about so in bytes."""
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(images):
            coarse = Image.fromarray(random.integers(0, 256, (_HEIGHT // 4, _WIDTH // 4, 3), np.uint8))
            picture = io.BytesIO()
            coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC).save(picture, "JPEG", quality=90)
            for extension, data in (("jpg", picture.getvalue()), ("cls", b"0")):
                member = tarfile.TarInfo(f"{number:06d}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return str(path)
