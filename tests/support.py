"""What tests build their worlds from: small networks, pictures and shards."""

import fcntl
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import settings
from PIL import Image
from torch import nn

from pipeline.demo.train_model import MODEL
from pipeline.explain import Anatomy, describe
from pipeline.explain.head import Head
from pipeline.explain.module_classes import ATTENTIONS, BLOCKS
from pipeline.explain.registers import Registers
from pipeline.explain.weights_hash import weights_hash
from pipeline.store import Atlas, Lease, ObjectStore, ShardWriter
from pipeline.utils.atomic_write import is_temp_file
from schemas.artifacts import ArtifactRecord
from schemas.base import sha256
from schemas.commits import CommitRecord
from schemas.errors import StoppedEarlyError
from schemas.head import HeadRecord
from schemas.layout import AUDIT, LABELS, RANK, SCORES
from schemas.registers import RegistersRecord
from schemas.run import ModelSpec

DEMO_MODEL = ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)

NEURONS = {0: (1, 5, 17), 1: (3,), 2: (0, 9)}
"""Neurons of a test-time register of ``small_vit``."""

FAMILIES: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers": {"reg_tokens": 3},
    "mean": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "mean, fc_norm": {"class_token": False, "global_pool": "avg"},
    "mean beside an idle class token": {"global_pool": "avg"},
    "attention pool": {"class_token": False, "global_pool": "map"},
    "layer scale": {"init_values": 0.1},
    "q/k norm": {"qk_norm": True},
    "not square": {"img_size": (48, 32)},
    "norm in front": {"pre_norm": True, "no_embed_class": True},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
    "rotary": {"name": "vit_base_patch16_rope_224"},
    "rotary, registers, mean": {"name": "vit_small_patch16_dinov3"},
    "rotary per block, not square": {"name": "vit_base_patch16_rope_mixed_224", "img_size": (48, 32)},
    "SwiGLU": {"name": "eva02_tiny_patch14_224"},
    "scaled SwiGLU": {"name": "eva02_base_patch14_224"},
    "attention pool, tanh": {"name": "vit_base_patch32_siglip_256"},
    "quick GELU": {"name": "vit_base_patch16_clip_quickgelu_224"},
    "relative bias": {"name": "beit_base_patch16_224"},
    "relative positions": {"name": "vit_relpos_small_patch16_224"},
    "RMS norm": {"name": "test_vit4"},
    "texts": {"name": "vit_base_patch16_clip_quickgelu_224", "num_classes": 24, "head": "texts"},
    "texts, sigmoid": {"class_token": False, "global_pool": "map", "num_classes": 0, "head": "texts, sigmoid"},
    "class token and mean": {"reg_tokens": 3, "init_values": 0.1, "num_classes": 0, "head": "class token and mean"},
    "texts, projected": {"class_token": False, "global_pool": "map", "num_classes": 0, "head": "texts, projected"},
    "mean, sigmoid": {"reg_tokens": 3, "num_classes": 0, "head": "mean, sigmoid"},
    "test-time register": {"neurons": NEURONS},
    "test-time register, mean": {"class_token": False, "global_pool": "avg", "neurons": NEURONS},
    "test-time register, attention pool": {"class_token": False, "global_pool": "map", "neurons": NEURONS},
    "test-time register, gated": {
        "name": "vit_giant_patch14_dinov2",
        "num_classes": 0,
        "head": "class token and mean",
        "neurons": NEURONS,
    },
}
"""Models that every method is tried on: variants of supported blocks, by timm name and options of its constructor."""

HEADS = tuple(name for name, options in FAMILIES.items() if "head" in options)
"""Those with a head file: of each kind, read-out, projection and activation."""

_EXAMPLES = {*BLOCKS.values(), *ATTENTIONS.values()}
_VARIANTS = {options.get("name", "vit_tiny_patch16_224") for options in FAMILIES.values()}
FAMILIES |= {name: {"name": name} for name in sorted(_EXAMPLES - _VARIANTS)}  # families without a variant above


def random_head(kind: str, width: int = 32, **changes: Any) -> Head:
    """A head of 10 classes for ``small_vit``, see ``FAMILIES``."""
    generator = torch.Generator().manual_seed(1)
    record: dict[str, Any] = {"classes": tuple(f"class {index}" for index in range(10)), "input_width": width}
    if kind in ("class token and mean", "mean, sigmoid"):
        record |= {"kind": "linear", "read_out": "token+mean"}
        tensors = {"weight": torch.randn(10, 2 * width, generator=generator)}
        tensors["bias"] = torch.randn(10, generator=generator)
        if kind == "mean, sigmoid":
            record |= {"read_out": "mean", "activation": "sigmoid"}
            tensors["weight"] = tensors["weight"][:, :width]
    else:
        record |= {"kind": "zero_shot", "normalise": "l2", "read_out": "token", "projection": "backbone head.weight"}
        tensors = {"logit_scale": torch.tensor(12.0)}
        if kind == "texts, sigmoid":
            record |= {"read_out": "pool", "projection": "none", "activation": "sigmoid"}
            tensors = {"logit_scale": torch.tensor(7.0), "logit_bias": torch.tensor(-1.5)}
        embedding = width if kind == "texts, sigmoid" else 24
        if kind == "texts, projected":
            record |= {"read_out": "pool", "projection": "tensor"}
            tensors |= {"logit_bias": torch.randn(10, generator=generator)}
            tensors |= {"projection": torch.randn(24, width, generator=generator)}
            tensors |= {"projection_bias": torch.randn(24, generator=generator)}
        tensors["text"] = F.normalize(torch.randn(10, embedding, generator=generator).double(), dim=1)
        tensors["empty"] = F.normalize(torch.randn(1, embedding, generator=generator).double(), dim=1)
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    return Head(HeadRecord(**(record | changes)), tensors)


def small_vit(
    name: str = "vit_tiny_patch16_224",
    head: str = "",
    neurons: dict[int, tuple[int, ...]] | None = None,
    **options: Any,
) -> nn.Module:
    """A random vision transformer in float64: 48 px, patches of 8, 3 blocks, 4 heads, 10 classes."""
    torch.manual_seed(0)
    shape = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 10}
    model = timm.create_model(name, **(shape | options))
    for name, parameter in model.named_parameters():  # timm's initial weights make attention almost uniform
        if parameter.ndim >= 2 or "bias" in name or "token" in name:
            nn.init.normal_(parameter, std=0.25)
        elif "gamma" in name:  # layer scale begins at next to nothing
            nn.init.uniform_(parameter, 0.3, 1.5)
    model = model.double().eval()
    model = random_head(head).attach(model) if head else model
    if neurons is None:
        return model
    fitting = {block: channels for block, channels in neurons.items() if block < len(model.blocks)}
    return Registers(RegistersRecord(neurons=fitting)).attach(model)


@cache
def family_anatomies() -> dict[str, Anatomy]:
    """What is known of the network of each of ``FAMILIES``, by name; for tests that choose families by it."""
    return {name: describe(small_vit(**options)) for name, options in FAMILIES.items()}


def first_tokens(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The input of the first block."""
    kept: list[torch.Tensor] = []
    with model.blocks[0].register_forward_pre_hook(lambda _, args: kept.append(args[0])):
        model(images)
    return kept[0]


def images_for(model: nn.Module, count: int = 3, seed: int = 0) -> torch.Tensor:
    """Random images of a network's size, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *model.patch_embed.img_size, generator=generator, dtype=torch.float64)


def artifact_record(model: nn.Module, method: str) -> ArtifactRecord:
    """The record of an artifact that was trained for a network in a step."""
    return ArtifactRecord(
        method=method,  # type: ignore[arg-type]
        provenance="a test",
        model="small",
        weights=weights_hash(model),
        head=describe(model).head,
        settings={},
        shards=(),
        steps=1,
        batch_size=1,
        seed=0,
        metrics={},
    )


def jpeg(seed: int = 0, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    """A small JPEG of random blocks; size is width, height."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return encode(Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST), "JPEG", **options)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A shard of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(count: int, first: int = 0, classes: int = 10) -> list[tuple[str, bytes]]:
    """Members of so many good samples: jpg, cls, json."""
    members = []
    for number in range(first, first + count):
        members += [
            (f"s{number:04d}.jpg", jpeg(number, (40 + number % 7, 30 + number % 5))),
            (f"s{number:04d}.cls", str(number % classes).encode()),
            (f"s{number:04d}.json", json.dumps({"filename": f"s{number}.JPEG"}).encode()),
        ]
    return members


def recommit(folder: Path) -> None:
    """Change the commits as if the objects that are there had been committed."""
    for record in (folder / "commits").iterdir():
        content = json.loads(record.read_text())
        for entry in content["objects"]:
            data = (folder / entry["path"]).read_bytes()
            entry |= {"size": len(data), "sha256": sha256(data)}
        record.write_text(json.dumps(content))


def copy_atlas(url: str, target: Path) -> Path:
    """Copy a run without what other tests of the session have derived from it: labels, scores and audits."""
    derived = {LABELS, SCORES, AUDIT, RANK}
    return Path(shutil.copytree(url, target, ignore=lambda folder, names: derived if folder == url else set()))


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder that is filled once a session, by the first worker of pytest-xdist that asks for it.

    Args:
        factory: of the fixture that asks.
        name: of the folder.
        build: fills the folder that it is given. What is in it must not be changed later.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # which all workers have
    folder, done = root / f"once-{name}", root / f"once-{name}.done"
    with (root / f"once-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            done.touch()
    return folder


SHORT = {
    "integrated_gradients": "integrated_gradients:nodes=3",
    "smoothgrad": "smoothgrad:samples=2",
    "beyond_intuition": "beyond_intuition:steps=2",
    "rise": "rise:masks=6",
    "vit_cx": "vit_cx:distance=0.2",
    "tis": "tis:masks=6",
}
"""Methods of very many forwards, with fewer."""


def soaking() -> bool:
    """Return whether hypothesis has the profile of `make soak`; known once pytest is configured."""
    return settings.get_current_profile_name() == "soak"


def examples(count: int) -> settings:
    """How many examples hypothesis tries: in `make soak` ten times as many."""
    return settings(max_examples=10 * count if soaking() else count, deadline=None)


def soak_after(count: int, values: Iterable[Any]) -> list[Any]:
    """Return the values of a parameter: the first `count` for `make test`, the others marked for `make soak`."""
    return [
        value if place < count else pytest.param(value, marks=pytest.mark.soak) for place, value in enumerate(values)
    ]


FAST = ("attention", "legrad", "random")
"""Methods of runs in which the maps do not matter: by image, by class, and at random."""


FREE = ("lease", "seconds", "attempt", "host", "finished")
"""Fields of commits that may differ between equal atlases."""


def same_bytes(first: Path, second: Path) -> None:
    """Assert that two atlases are equal, byte for byte; commit records but for when, where and how often."""
    names = [_objects(root) for root in (first, second)]
    assert names[0] == names[1], set(names[0]) ^ set(names[1])
    for name in names[0]:
        one, other = (first / name).read_bytes(), (second / name).read_bytes()
        if name.startswith("commits/"):
            records = [json.loads(data) for data in (one, other)]
            for record in records:
                for free in FREE:
                    del record[free]
            assert records[0] == records[1], name
        else:
            assert one == other, name


def same_atlas(first: Atlas, second: Atlas) -> None:
    """Assert that two atlases have the same shards, rows, targets and samples, and equal bits in every array."""
    assert (first.run.rows, first.shard_names) == (second.run.rows, second.shard_names)
    assert first.run.spec.target_names == second.run.spec.target_names
    assert set(first.run.arrays) == set(second.run.arrays)
    for name in first.shard_names:
        one, other = first.shard(name), second.shard(name)
        assert one.samples.equals(other.samples)
        for array in first.run.arrays:
            assert one.array(array).tobytes() == other.array(array).tobytes(), (name, array)


def objects_of(folder: Path) -> dict[str, bytes]:
    """Contents of everything in a folder, by path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _objects(root: Path) -> list[str]:
    """Everything in a folder but what a writer that was killed may leave behind: a hidden, unfinished object."""
    files = (path for path in root.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(root)) for path in files if not is_temp_file(path.name))


@contextmanager
def in_one_process() -> Iterator[None]:
    """A few small shards are done sooner than a process starts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "cpu_count", lambda: 1)
        yield


def predict_first_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first class have the highest logit of every image, as on another machine two that are almost equal."""
    argmax, zeros = torch.Tensor.argmax, torch.zeros_like
    monkeypatch.setattr(
        torch.Tensor,
        "argmax",
        lambda self, dim: zeros(argmax(self, dim)) if self.is_floating_point() else argmax(self, dim),
    )


@contextmanager
def interrupted_at(shard_index: int, says: str) -> Iterator[None]:
    """Interrupt a command when it is about to commit a shard, and make sure that it stops early.

    Args:
        shard_index: index of the shard.
        says: pattern of the error.
    """
    commit = ShardWriter.commit

    def stopped(self: ShardWriter, *arguments: Any) -> CommitRecord:
        if self.shard_index == shard_index:
            raise KeyboardInterrupt
        return commit(self, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ShardWriter, "commit", stopped)
        with pytest.raises(StoppedEarlyError, match=says):
            yield


class Crash(BaseException):
    """The process is gone: nothing may catch this."""


@dataclass
class Crashing:
    """How many operations are left until the crash, and whether it happened."""

    left: int
    happened: bool = False


@contextmanager
def crash_after(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crashing]:
    """From the given operation on that changes something in a store, nothing is written any more."""
    crash = Crashing(count)

    def crashing(operation: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any) -> Any:
            crash.left -= 1
            if crash.left <= 0:
                crash.happened = True
                raise Crash
            return operation(*arguments)

        return instead

    with monkeypatch.context() as patched:
        for name in ("put", "create", "replace", "delete", "remove_temp_files"):
            patched.setattr(ObjectStore, name, crashing(getattr(ObjectStore, name)))
        patched.setattr(Lease, "increment", lambda lease: None)  # by time, in a thread of its own
        with suppress(Crash):
            yield crash


def crashed_copies(
    atlas: Path, folder: Path, step: int, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], object]
) -> Iterator[tuple[int, Path]]:
    """Yield copies of an atlas that a command was changing when it crashed, and at last one that it has changed.

    Args:
        atlas: stays as it is.
        folder: of the copies.
        step: crash after operation 1, 1 + step, 1 + 2 · step, … of the command.
        monkeypatch: of the test.
        change: the command.

    Yields:
        The operation, and the copy.
    """
    for k in count(1, step):
        out = Path(shutil.copytree(atlas, folder / f"crash-{k}"))
        with crash_after(k, monkeypatch) as crash:
            change(str(out))
        yield k, out
        if not crash.happened:
            return
