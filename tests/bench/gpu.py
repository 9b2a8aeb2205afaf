"""What a GPU makes of the whole way from shard to atlas, by who decodes: the table of docs/explanation/performance.md.

One actor with its decoding processes takes pictures through the full set of methods, once with ``--decode processes``
and once with ``--decode gpu``. Then the pixels of the two are compared, and what the difference does to LeGrad
maps of the demo network, which is trained. Without a GPU it runs as well, and says what a CPU does.

    python tests/bench/gpu.py --model vit_base_patch16_224 --precision bfloat16 --batch 128 --batches 16
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import timm
import torch
import torchvision
from numpy.typing import NDArray
from scipy.stats import spearmanr

from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.demo.train_model import MODEL
from pipeline.explain import methods as registry
from pipeline.explain.load import LoadedModel, create_model, describe_loaded, load_model
from pipeline.read import DecoderPool, ImageDecoder, PreprocessConfig, count_samples, expand_shards, iter_batches
from pipeline.run.bench_end_to_end import make_synthetic_shard, shard_prefix
from pipeline.run.execution import Device
from pipeline.run.gpu_decode import DeviceDecoder
from pipeline.run.plan import make_run_record
from pipeline.run.status import ShardProgress
from pipeline.run.worker import Worker
from pipeline.store import ObjectStore
from schemas.commits import CommitRecord
from schemas.layout import RUN
from schemas.run import Decode, ModelSpec, Precision, RunSpec
from schemas.shard_record import ShardRecord

_WAYS: tuple[Decode, ...] = get_args(Decode)
_BESIDE = ("read", "decode", "collect", "write", "drift", "norms", "total")
"""Stages that are not the network's, or are done for a few images of a shard."""
_COMPARED = 256
"""Pictures of which pixels are compared, at most."""


@dataclass(frozen=True)
class Difference:
    """How far pixels of the two ways are apart, in steps of 255.

    Attributes:
        mean, largest: of the absolute difference of a value.
        share: of values that differ.
        images: that were compared.
    """

    mean: float
    largest: int
    share: float
    images: int


def worker_of(
    folder: str, spec: RunSpec, loaded: LoadedModel, shards: Sequence[ShardRecord], device: Device, processes: int
) -> Worker:
    """A worker over shards that are counted, whose atlas is thrown away with the folder."""
    objects = ObjectStore(f"{folder}/{spec.decode}")
    objects.put(RUN, make_run_record(spec, loaded, tuple(shards)).to_bytes())
    return Worker(objects.url, device, processes, loaded=loaded)


def throughput(
    spec: RunSpec, loaded: LoadedModel, whole: ShardRecord, timed: int, device: Device, processes: int
) -> CommitRecord:
    """What one actor takes over so many pictures, after a batch that warms up."""
    shards = (shard_prefix(whole, "warm", spec.batch_size), shard_prefix(whole, "timed", timed))
    with tempfile.TemporaryDirectory() as folder, worker_of(folder, spec, loaded, shards, device, processes) as worker:
        worker.process(0)
        return worker.process(1)


def pixels(shard: ShardRecord, frame: PreprocessConfig, decoders: ImageDecoder) -> Iterator[NDArray[np.int16]]:
    """[B, 3, H, W] of each batch of a shard."""
    for batch in iter_batches(shard, shard.samples, frame, 32, None, decoders):
        yield torch.as_tensor(batch.pixels).cpu().numpy().astype(np.int16)


def difference(shard: ShardRecord, frame: PreprocessConfig, device: torch.device) -> Difference:
    """Of all pixels of a shard."""
    here, there = DecoderPool(), DeviceDecoder(device)
    try:
        pairs = zip(pixels(shard, frame, here), pixels(shard, frame, there), strict=True)
        off = np.concatenate([np.abs(one - other).reshape(len(one), -1) for one, other in pairs])
    finally:
        here.close()
        there.close()
    return Difference(float(off.mean()), int(off.max()), float((off > 0).mean()), len(off))


def correlations(scenes: int, device: Device) -> tuple[NDArray[np.float64], float]:
    """Spearman's correlation of each scene's LeGrad maps of the two ways, and the share of equal predictions."""
    loaded = load_model(ModelSpec(name=f"local-dir:{MODEL}", pretrained=True))
    maps: dict[str, list[NDArray[np.float32]]] = {}
    said: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = SyntheticDataset(Path(folder), 1, scenes)
        write_dataset(world)
        shards = count_samples(expand_shards([world.shards]))
        for way in _WAYS:
            spec = RunSpec(
                shards=(world.shards,),
                model=ModelSpec(name=loaded.record.name, pretrained=True),
                methods=("legrad",),
                targets=("label",),
                decode=way,
            )
            with worker_of(folder, spec, loaded, shards, device, 0) as worker:
                found = list(islice(worker.explain(0), scenes))
            maps[way] = [each.maps["legrad"][0].ravel() for each in found]
            said[way] = [each.row["prediction"] for each in found]
    pairs = zip(*maps.values(), strict=True)
    found_equal = np.mean([one == other for one, other in zip(*said.values(), strict=True)])
    return np.array([spearmanr(one, other).statistic for one, other in pairs]), float(found_equal)


def rows(commits: dict[Decode, CommitRecord]) -> Iterator[tuple[str, list[str]]]:
    """What is said of each way: a name, and a cell for each."""

    def every(say: Callable[..., str]) -> list[str]:
        return [say(commit, commit.seconds) for commit in commits.values()]

    yield "images/s, shard to atlas", every(lambda commit, took: f"{commit.rows / took['total']:.1f}")
    yield "network idle", every(lambda commit, took: f"{ShardProgress.from_commit(commit).idle / took['total']:.1%}")
    for stage in ("read", "decode"):
        yield f"{stage}, ms an image", every(lambda commit, took, s=stage: f"{1000 * took.get(s, 0) / commit.rows:.2f}")
    yield (
        "network and methods, ms an image",
        every(lambda commit, took: f"{1000 * sum(v for s, v in took.items() if s not in _BESIDE) / commit.rows:.2f}"),
    )
    for stage in ("collect", "write"):
        yield f"{stage}, ms an image", every(lambda commit, took, s=stage: f"{1000 * took.get(s, 0) / commit.rows:.2f}")
    yield "not decoded on the device", every(lambda commit, took: f"{sum(commit.fallbacks.values())}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--methods", default="", help="by default those of a run that names none")
    parser.add_argument("--precision", choices=get_args(Precision), default="bfloat16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--processes", type=int, default=4, help="that decode beside the network")
    parser.add_argument("--scenes", type=int, default=192, help="of the demo, of which maps are compared")
    parser.add_argument("--shard", help="by default drawn pictures of 500 × 375 pixels")
    given = parser.parse_args(arguments)
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = describe_loaded(given.model, create_model(given.model).eval())
    methods = registry.resolve(given.methods.split(",")) if given.methods else registry.defaults(loaded.anatomy)
    with tempfile.TemporaryDirectory() as folder:
        shard = given.shard or make_synthetic_shard(Path(folder, "drawn.tar"), given.batch * given.batches)
        (whole,) = count_samples(expand_shards([shard]))
        commits = {}
        for way in _WAYS:
            spec = RunSpec(
                shards=(shard,),
                model=ModelSpec(name=given.model, pretrained=True),
                methods=tuple(method.spec for method in methods),
                targets=("predicted",),
                batch_size=given.batch,
                precision=given.precision,
                decode=way,
            )
            commits[way] = throughput(spec, loaded, whole, given.batch * given.batches, device, given.processes)
        frame = PreprocessConfig.for_model(loaded.record, "squash")
        off = difference(shard_prefix(whole, "compared", _COMPARED), frame, torch.device(device))
    ranks, equal = correlations(given.scenes, device)
    card = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, one thread"
    print(
        f"{given.model}, {len(methods)} methods, one target, {given.precision}, batch {given.batch}, "
        f"{commits['gpu'].rows} pictures; {card}, {os.cpu_count()} cores, {given.processes} decoding processes; "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}\n"
    )
    print(f"| | {' | '.join(f'`--decode {way}`' for way in commits)} |")
    print("|---|" + "---|" * len(commits))
    for name, cells in rows(commits):
        print(f"| {name} | {' | '.join(cells)} |")
    print(
        f"\nPixels of {off.images} pictures, in steps of 255: mean difference {off.mean:.3f}, largest {off.largest}, "
        f"{off.share:.1%} of the values differ."
    )
    print(
        f"LeGrad of {len(ranks)} demo scenes, rank correlation of the two: median {np.median(ranks):.5f}, "
        f"least {ranks.min():.5f}; {equal:.1%} of the predictions are equal."
    )


if __name__ == "__main__":
    main()
