"""Heads learned from shards: as good on the network as on the features, resumed to the same bytes, or refused."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import save_file
from support import jpeg, samples, soak_after, write_tar
from torch import Tensor, nn

from pipeline.explain import Head, explain
from pipeline.explain.load import load_model
from pipeline.explain.preprocess import Normalize
from pipeline.head import probe
from pipeline.head.learn_head import learn_head
from pipeline.image import PreprocessConfig
from pipeline.read import DecoderPool, count_samples, expand_shards, iter_batches
from schemas.errors import UnsupportedModel, UsageError
from schemas.learned_head import LearnedHeadRecord, LearnedHeadSpec
from schemas.run import ModelSpec

CLASSES = 3


@pytest.fixture
def spec(checkpoint: ModelSpec, tmp_path: Path) -> LearnedHeadSpec:
    """A probe from two shards of 12 and 9 images, evaluated on one of 9."""
    write_tar(tmp_path / "train-0.tar", samples(12, 0, CLASSES))
    write_tar(tmp_path / "train-1.tar", samples(9, 12, CLASSES))
    write_tar(tmp_path / "held.tar", samples(9, 100, CLASSES))
    return LearnedHeadSpec(
        command="head probe",
        model=checkpoint,
        shards=(str(tmp_path / "train-{0..1}.tar"),),
        held_out=(str(tmp_path / "held.tar"),),
        out=str(tmp_path / "head.safetensors"),
        l2=(1.0, 1e-1, 1e-2),
        batch_size=4,
    )


def changed(spec: LearnedHeadSpec, **changes: Any) -> LearnedHeadSpec:
    return LearnedHeadSpec.read(spec.model_dump() | changes, "a test")


def network(spec: LearnedHeadSpec) -> nn.Module:
    return load_model(spec.model).model


def images_of(pattern: str, spec: LearnedHeadSpec) -> tuple[Tensor, Tensor]:
    """Input of the network, and labels."""
    loaded = load_model(spec.model)
    frame = PreprocessConfig.for_model(loaded.record, spec.geometry)
    pixels, labels = [], []
    with DecoderPool() as decoders:
        for shard in count_samples(expand_shards([pattern])):
            for batch in iter_batches(shard, shard.samples, frame, 4, None, decoders):
                pixels.append(torch.from_numpy(batch.pixels))
                labels += [sample.label for sample in batch.samples]
    normalize = Normalize(loaded.record.mean, loaded.record.std, next(loaded.model.parameters()))
    return normalize(torch.cat(pixels)), torch.tensor(labels)


@pytest.mark.parametrize("read_out", soak_after(1, ["token+mean", None, "mean"]))
@pytest.mark.parametrize("command", ["head probe", "head prototypes"])
def test_the_head_on_the_network_is_as_good_as_its_record_says(
    spec: LearnedHeadSpec, command: str, read_out: str | None
) -> None:
    spec = changed(spec, command=command, read_out=read_out, classes=("a", "b", "c"))
    record = learn_head(spec)
    head = Head.load(spec.out)
    assert LearnedHeadRecord.read(head.record.provenance.encode(), "the file") == record
    assert head.classes == ("a", "b", "c")
    assert head.record.read_out == (read_out or "token")
    model = head.attach(network(spec))
    images, labels = images_of(spec.held_out[0], spec)
    with torch.inference_mode():
        logs = model(images).double().log_softmax(1)
    assert record.metrics.accuracy == (logs.argmax(1) == labels).double().mean()
    assert record.metrics.nll == pytest.approx(float(-logs.gather(1, labels[:, None]).mean()), rel=1e-2)
    assert record.held_out_images == 9
    maps = explain(model, images[:2], torch.tensor([[0], [2]]), ["legrad", "reciprocam"])
    assert all(values.isfinite().all() and values.std() > 0 for values in maps.values())


def test_the_regularization_is_chosen_on_held_out_images(spec: LearnedHeadSpec) -> None:
    record = learn_head(spec)
    assert [fit.l2 for fit in record.fits] == [1.0, 1e-1, 1e-2]
    losses = {fit.l2: fit.held_out.nll for fit in record.fits}
    assert record.setting == min(losses, key=losses.__getitem__)
    assert record.metrics.nll == min(losses.values()) < max(losses.values())
    alone = changed(spec, l2=(record.setting,), out=spec.out + ".alone")
    learn_head(alone)
    first, second = (Head.load(file).tensors["weight"] for file in (spec.out, alone.out))
    assert (first - second).abs().max() <= 1e-2 * first.abs().max()


def test_prototypes_are_means_of_unit_features(spec: LearnedHeadSpec) -> None:
    spec = changed(spec, command="head prototypes", images=100)  # all there are
    record = learn_head(spec)
    assert (record.images, record.small_classes) == (21, 3)
    model = network(spec)
    model.head = nn.Identity()
    images, labels = images_of(spec.shards[0], spec)
    with torch.inference_mode():
        units = nn.functional.normalize(model(images).double(), dim=1)
    expected = nn.functional.normalize(torch.stack([units[labels == label].mean(0) for label in range(CLASSES)]), dim=1)
    assert (Head.load(spec.out).tensors["text"] - expected).abs().max() <= 1e-3  # float16 features


def test_a_share_is_held_out_where_no_shards_are(spec: LearnedHeadSpec) -> None:
    record = learn_head(changed(spec, held_out=(), held_out_share=0.3))
    assert (record.images, record.held_out_images) == (15, 6)  # 2 of the 7 images of each class
    few = learn_head(changed(spec, command="head prototypes", held_out=(), images=2, out=spec.out + ".few"))
    assert (few.images, few.held_out_images) == (6, 15)


class Killed(BaseException):
    pass


def test_a_killed_command_resumes_to_the_same_bytes(spec: LearnedHeadSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = changed(spec, out=spec.out + ".undisturbed")
    learn_head(undisturbed)
    done: list[int] = []

    def map_until(count: int) -> Callable[..., Iterable[Any]]:
        def mapped(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
            for item in items:
                if len(done) == count:
                    raise Killed
                done.append(1)
                yield function(item)

        return mapped

    with pytest.raises(Killed):
        learn_head(spec, map_shards=map_until(1))
    assert not Path(spec.out).exists()
    fits: list[float] = []

    def fit_until(rows: Any, scaling: Any, l2: float, *arguments: Any) -> Any:
        if len(fits) == 2:
            raise Killed
        fits.append(l2)
        return fit(rows, scaling, l2, *arguments)

    fit = probe.fit
    monkeypatch.setattr(probe, "fit", fit_until)
    with pytest.raises(Killed):
        learn_head(spec, map_shards=map_until(4))
    assert (len(done), fits) == (3, [1.0, 1e-1])  # each shard once
    monkeypatch.undo()
    learn_head(spec, map_shards=map_until(3))  # no shard again
    assert Path(spec.out).read_bytes() == Path(undisturbed.out).read_bytes()
    left = {path.name for path in Path(spec.out).parent.iterdir()}
    assert not {name for name in left if "features" in name or "checkpoint" in name}
    before = Path(spec.out).stat().st_mtime_ns
    learn_head(spec, map_shards=map_until(3))  # it is there
    assert Path(spec.out).stat().st_mtime_ns == before


def test_kept_features_serve_further_heads_and_no_others(spec: LearnedHeadSpec, tmp_path: Path) -> None:
    kept = changed(spec, features=str(tmp_path / "features"))
    learn_head(kept)

    def none(function: Any, items: Sequence[Any]) -> list[Any]:
        assert not items
        return []

    learn_head(changed(kept, command="head prototypes", out=spec.out + ".prototypes"), map_shards=none)
    learn_head(changed(kept, l2=(1e-3,), out=spec.out + ".other"), map_shards=none)
    with pytest.raises(UsageError, match=r"holds other features .read_out is 'token', not 'mean'.; remove"):
        learn_head(changed(kept, read_out="mean", out=spec.out + ".mean"))


def test_samples_without_a_usable_image_or_label_are_listed(spec: LearnedHeadSpec, tmp_path: Path) -> None:
    members = samples(6, 50, CLASSES)
    members += [
        ("none.jpg", jpeg(1)),
        ("two.jpg", jpeg(2)),
        ("two.cls", b"0 2"),
        ("far.jpg", jpeg(3)),
        ("far.cls", b"3"),
    ]
    members += [("torn.jpg", jpeg(4)[:100]), ("torn.cls", b"1"), ("bare.cls", b"1")]
    write_tar(tmp_path / "train-2.tar", members)
    record = learn_head(changed(spec, shards=(*spec.shards, str(tmp_path / "train-2.tar")), classes=("a", "b", "c")))
    faults = {
        "none": ("missing_label", "no .cls member; there are: none.jpg; add one"),
        "two": ("bad_label", "the .cls member has 2 labels"),
        "far": ("label_out_of_range", "label 3 is outside of 0 … 2"),
        "torn": ("undecodable", None),
        "bare": ("missing_image", None),
    }
    assert record.images == 27
    assert record.left_out == dict.fromkeys(sorted(status for status, _ in faults.values()), 1)
    rows = {row["key"]: row for row in pq.read_table(f"{spec.out}.left-out.parquet").to_pylist()}
    assert rows.keys() == faults.keys()
    for key, (status, error) in faults.items():
        assert (rows[key]["shard"], rows[key]["status"]) == ("train-2", status)
        assert rows[key]["error"] == error or (error is None and rows[key]["error"])


def test_labels_that_do_not_name_their_classes_are_refused(spec: LearnedHeadSpec, tmp_path: Path) -> None:
    gap = [(name, b"999999999" if data == b"1" else data) for name, data in samples(12, 0, CLASSES)]
    write_tar(tmp_path / "train-0.tar", gap)
    only = changed(spec, shards=(str(tmp_path / "train-0.tar"),), held_out=())
    with pytest.raises(UsageError, match="no image has the label 1, but there is 999999999; name all classes"):
        learn_head(only)
    write_tar(tmp_path / "one.tar", samples(5, 0, 1))
    with pytest.raises(UsageError, match="there is one class, and a head tells classes apart"):
        learn_head(changed(spec, shards=(str(tmp_path / "one.tar"),), held_out=(), out=spec.out + ".one"))
    write_tar(tmp_path / "none.tar", [("a.jpg", jpeg(1))])
    with pytest.raises(UsageError, match=r"not one of 1 samples has a usable image and label; a of none: no .cls"):
        learn_head(changed(spec, shards=(str(tmp_path / "none.tar"),), held_out=(), out=spec.out + ".none"))
    four = changed(spec, command="head prototypes", classes=("a", "b", "c", "d"), out=spec.out + ".four")
    with pytest.raises(UsageError, match="class 'd' has no usable image, so it has no prototype"):
        learn_head(four)
    assert learn_head(changed(four, command="head probe")).absent_classes == 1


def test_the_head_fits_no_other_backbone(spec: LearnedHeadSpec, tmp_path: Path) -> None:
    learn_head(spec)
    torch.manual_seed(7)
    other = timm.create_model("test_vit", num_classes=10).eval()
    with pytest.raises(UnsupportedModel, match="the head was made for the backbone sha256:"):
        Head.load(spec.out).attach(other)


def test_features_beyond_float16_are_no_features(spec: LearnedHeadSpec, tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=10)
    nn.init.constant_(model.norm.bias, 1e6)
    save_file(model.state_dict(), tmp_path / "large.safetensors")
    weights = {"name": "test_vit", "checkpoint": str(tmp_path / "large.safetensors")}
    with pytest.raises(UsageError, match=r"not one of 30 samples .* largest feature is 1e[+]06, which float16"):
        learn_head(changed(spec, model=weights))


def test_mistakes_are_refused_before_any_feature(spec: LearnedHeadSpec, tmp_path: Path) -> None:
    def never(function: Any, items: Sequence[Any]) -> list[Any]:
        raise AssertionError

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(UsageError, match=message):
            learn_head(changed(spec, **changes), map_shards=never)

    refused("--read-out pool: does not fit VisionTransformer: it reads out token", read_out="pool")
    refused("there is no folder .*missing; create it first", out=str(tmp_path / "missing" / "head.safetensors"))
    refused("is both a training shard and a held-out shard", held_out=(str(tmp_path / "train-1.tar"),))
    (tmp_path / "copy.tar").write_bytes((tmp_path / "train-1.tar").read_bytes())
    refused("copy.tar: is a copy of the training shard", held_out=(str(tmp_path / "copy.tar"),))
    Path(spec.out).write_bytes(b"something")
    refused("head.safetensors: exists, and is something else; choose another --out")
    with pytest.raises(UsageError, match=r"l2\.0: Input should be greater than 0"):
        changed(spec, l2=(0.0,))


def test_left_behind_files_of_another_head_are_refused(spec: LearnedHeadSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: object, path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Head, "save", killed)
        with pytest.raises(Killed):
            learn_head(spec)
    with pytest.raises(UsageError, match="checkpoint: is of another head; remove it, or choose another --out"):
        learn_head(changed(spec, l2=(1e-3,)))
    Path(f"{spec.out}.checkpoint").write_bytes(b"torn")
    with pytest.raises(UsageError, match="checkpoint: cannot be read as a checkpoint"):
        learn_head(spec)
    (features := Path(f"{spec.out}.features") / "training" / "train-0.safetensors").write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"train-0\.safetensors: cannot be read as features"):
        learn_head(spec)
    features.unlink()
    Path(f"{spec.out}.checkpoint").unlink()
    learn_head(spec)


def test_copies_of_training_images_are_not_held_out(spec: LearnedHeadSpec, tmp_path: Path) -> None:
    members = [(name.replace("s", "copy", 1), data) for name, data in samples(2, 0, CLASSES)]
    write_tar(tmp_path / "held.tar", samples(9, 100, CLASSES) + members)
    record = learn_head(spec)
    assert (record.repeated, record.held_out_images) == (2, 9)
    assert json.loads(Head.load(spec.out).record.provenance)["repeated"] == 2
