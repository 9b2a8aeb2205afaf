"""Pictures decoded where the network is: all but the GPU itself, which a CPU stands for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support import encode, jpeg, same_bytes, samples, write_tar

from pipeline.explain.explainer import Explainer
from pipeline.read import DecodedImage, DecoderPool, PreprocessConfig, decode_image, iter_batches
from pipeline.run import INLINE, gpu_decode, run
from pipeline.run.gpu_decode import DeviceDecoder
from pipeline.run.plan import plan
from pipeline.run.worker import Worker
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.run import RunSpec
from schemas.shard_record import ShardRecord

CPU = torch.device("cpu")
ON_CPU = replace(INLINE, device="cpu")
FRAME = PreprocessConfig(224, 224, "bicubic", "squash", 0.9, "center")


def photo(seed: int, size: tuple[int, int] = (500, 375), mode: str = "RGB", **options: object) -> bytes:
    """A JPEG of large and small differences, as photographs have them."""
    colours = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
    return encode(Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).convert(mode), "JPEG", **options)


@pytest.fixture
def decoders() -> Iterator[DeviceDecoder]:
    decoders = DeviceDecoder(CPU)
    yield decoders
    decoders.close()


def gathered(decoders: DeviceDecoder, pictures: Sequence[bytes], frame: PreprocessConfig = FRAME):
    return decoders.gather([decoders.submit(data, frame) for data in pictures], frame)


KINDS: dict[str, Callable[[int], bytes]] = {
    "4:2:0": photo,
    "4:4:4": lambda seed: photo(seed, subsampling="4:4:4"),
    "grey": lambda seed: photo(seed, mode="L"),
    "tall": lambda seed: photo(seed, (300, 800)),
    "enlarged": lambda seed: photo(seed, (100, 80)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("geometry", ["squash", "crop"])
def test_pixels_are_those_of_the_processes_but_for_their_last_steps(
    decoders: DeviceDecoder, kind: str, interpolation: str, geometry: str
) -> None:
    """Measured on a CPU, where only the resize differs: a fifth of a step on average, five steps at most."""
    frame = PreprocessConfig(224, 224, interpolation, geometry, 0.9, "center")
    pictures = [KINDS[kind](seed) for seed in range(3)]
    pixels, results = gathered(decoders, pictures, frame)
    expected = [decode_image(data, frame) for data in pictures]
    off = np.abs(pixels.numpy().astype(int) - np.stack([each.pixels for each in expected]).astype(int))
    assert off.mean() < 0.25
    assert off.max() <= (6 if interpolation == "bicubic" else 1)
    for place, (result, known) in enumerate(zip(results, expected, strict=True)):
        assert isinstance(result, DecodedImage)
        assert torch.equal(result.pixels, pixels[place])
        assert replace(result, pixels=None) == replace(known, pixels=None)


def test_without_a_resize_pixels_are_equal(decoders: DeviceDecoder) -> None:
    data = photo(0, (224, 224))
    assert np.array_equal(gathered(decoders, [data])[0][0].numpy(), decode_image(data, FRAME).pixels)


def test_what_a_device_cannot_do_is_decoded_as_ever_and_says_why(decoders: DeviceDecoder) -> None:
    odd = {"PNG": encode(Image.new("RGB", (30, 20), "red"), "PNG"), "CMYK": photo(1, mode="CMYK")}
    pictures = [photo(0), odd["PNG"], photo(2), odd["CMYK"], b"junk", photo(3, progressive=True)]
    pixels, results = gathered(decoders, pictures)
    assert [each.fallback if isinstance(each, DecodedImage) else each for each in results] == [
        None, "PNG", None, "CMYK", "4 bytes that are no JPEG, PNG, WebP, PPM or BMP; convert it to one of these",
        "not baseline",
    ]  # fmt: skip
    for place in (1, 3, 5):
        assert np.array_equal(pixels[place].numpy(), decode_image(pictures[place], FRAME).pixels)
    assert not pixels[4].any()


def test_every_picture_stands_in_its_place_whatever_is_beside_it(
    decoders: DeviceDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [photo(0), photo(1, mode="L"), photo(2), encode(Image.new("L", (9, 9), 7), "PNG"), photo(4, mode="L")]
    alone = [gathered(decoders, [data])[0][0] for data in pictures]
    pending = [decoders.submit(data, FRAME) for data in pictures]
    together, results = decoders.gather([*pending[:3], None, *pending[3:]], FRAME)
    assert torch.equal(together, torch.stack([*alone[:3], torch.zeros_like(alone[0]), *alone[3:]]))
    assert [each is None for each in results] == [False] * 3 + [True] + [False] * 2
    monkeypatch.setattr(gpu_decode, "_MAX_BATCH_PIXELS", 500 * 375)  # and whatever goes to the device with it
    assert torch.equal(gathered(decoders, pictures)[0], torch.stack(alone))


def failing(refused: Sequence[bytes], says: str = "Error while decoding JPEG images: 3"):
    """torchvision, but for some pictures."""
    real = torchvision.io.decode_jpeg

    def decode_jpeg(encoded: list[torch.Tensor], *arguments: object) -> list[torch.Tensor]:
        if any(each.numpy().tobytes() in refused for each in encoded):
            raise RuntimeError(says)
        return real(encoded, *arguments)

    return decode_jpeg


def test_what_a_device_refuses_goes_to_the_processes_and_nothing_beside_it(
    decoders: DeviceDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [photo(seed) for seed in range(4)]
    whole, _ = gathered(decoders, pictures)
    monkeypatch.setattr(torchvision.io, "decode_jpeg", failing([pictures[2]]))
    pixels, results = gathered(decoders, pictures)
    assert [each.fallback for each in results] == [None, None, "refused", None]
    assert torch.equal(pixels[[0, 1, 3]], whole[[0, 1, 3]])
    assert np.array_equal(pixels[2].numpy(), decode_image(pictures[2], FRAME).pixels)


def test_a_picture_of_another_size_than_its_header_says_is_refused(
    decoders: DeviceDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torchvision.io.decode_jpeg
    monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda *given: [each[:, 1:] for each in real(*given)])
    assert [each.fallback for each in gathered(decoders, [photo(0)])[1]] == ["refused"]


@pytest.mark.parametrize(
    ("refuses", "says", "error"),
    [
        ("one", "CUDA out of memory. Tried to allocate 2.00 GiB", "not enough memory on the device"),
        ("all", "CUDA error: an illegal memory access", "the cpu can no longer decode: CUDA error"),
    ],
)
def test_what_is_not_the_fault_of_a_picture_does_not_decide_its_way(
    decoders: DeviceDecoder, monkeypatch: pytest.MonkeyPatch, refuses: str, says: str, error: str
) -> None:
    pictures = [photo(seed) for seed in range(2)]
    easy = [gpu_decode._make_probe_jpeg(grey) for grey in (False, True)]
    monkeypatch.setattr(
        torchvision.io, "decode_jpeg", failing(pictures[:1] if refuses == "one" else pictures + easy, says)
    )
    with pytest.raises(OSError, match=error):
        gathered(decoders, pictures)


def test_no_memory_for_a_resize_is_no_fault_of_a_picture(
    decoders: DeviceDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(gpu_decode, "resize_crop_tensor", never)
    with pytest.raises(OSError, match="not enough memory on the device"):
        gathered(decoders, [photo(0)])


def test_a_device_that_decodes_nothing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(torchvision.io, "decode_jpeg", never)
    with pytest.raises(UsageError, match=r"no JPEG on this cpu \(decode_jpegs_cuda.*\); plan with --decode processes"):
        DeviceDecoder(CPU)


def test_reading_and_decoding_are_stages_of_their_own() -> None:
    laps: list[str] = []
    decoders = DeviceDecoder(CPU, on_stage_end=laps.append)
    gathered(decoders, [photo(0)])
    decoders.close()
    assert laps == ["read", "decode"]


@pytest.fixture
def mixed(spec: RunSpec, tmp_path: Path) -> RunSpec:
    """Pictures of which some are no plain JPEG, and one is none at all; decoded on the device."""
    members = samples(7, 5)
    members[0] = (members[0][0], encode(Image.new("RGB", (30, 20), "red"), "PNG"))
    members[9] = (members[9][0], b"junk")
    members[12] = (members[12][0], jpeg(9, progressive=True))
    write_tar(tmp_path / "shards" / "part-1.tar", members)
    return spec.model_copy(update={"decode": "gpu"})


def test_a_run_counts_what_was_not_decoded_on_the_device(mixed: RunSpec, tmp_path: Path) -> None:
    plan(mixed, str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), ON_CPU)
    assert atlas.commits["part-0"].fallbacks == {}
    assert atlas.commits["part-1"].fallbacks == {"PNG": 1, "not baseline": 1}
    assert atlas.commits["part-1"].statuses == {"ok": 6, "undecodable": 1}
    assert {"read", "decode"} <= set(atlas.commits["part-1"].seconds)
    table = atlas.shard("part-1").samples
    assert table["fallback"].to_pylist() == ["PNG", None, None, None, "not baseline", None, None]


def test_two_runs_that_decode_on_the_device_give_the_same_bytes(mixed: RunSpec, tmp_path: Path) -> None:
    for name in ("one", "other"):
        plan(mixed, str(tmp_path / name))
        run(str(tmp_path / name), ON_CPU)
    same_bytes(tmp_path / "one", tmp_path / "other")


def test_a_retry_keeps_the_count(mixed: RunSpec, tmp_path: Path) -> None:
    out, shard = str(tmp_path / "atlas"), tmp_path / "shards" / "part-1.tar"
    junk = shard.read_bytes()
    plan(mixed, out)
    run(out, ON_CPU)
    good = jpeg(3)
    members = samples(7, 5)
    members[0] = (members[0][0], encode(Image.new("RGB", (30, 20), "red"), "PNG"))
    members[9] = (members[9][0], good)
    members[12] = (members[12][0], jpeg(9, progressive=True))
    assert write_tar(shard, members).read_bytes() != junk
    commit = run(out, ON_CPU, retry_failed=True).commits["part-1"]
    assert (commit.ok, commit.fallbacks) == (7, {"PNG": 1, "not baseline": 1})


def test_maps_of_the_two_ways_are_almost_the_same(finished: Path, spec: RunSpec, tmp_path: Path) -> None:
    plan(spec.model_copy(update={"decode": "gpu"}), str(tmp_path / "gpu"))
    run(str(tmp_path / "gpu"), ON_CPU)
    one, other = Atlas.open(str(finished)), Atlas.open(str(tmp_path / "gpu"))
    rows = one.samples()["row"].to_numpy()
    first, second = (each.maps("legrad").values[rows].astype(float) for each in (one, other))
    assert not np.array_equal(first, second)
    assert np.abs(first - second).mean() < 0.02


def test_without_a_gpu_it_is_refused_unless_a_cpu_is_asked_for(mixed: RunSpec, tmp_path: Path) -> None:
    out = str(tmp_path / "atlas")
    plan(mixed, out)
    with pytest.raises(UsageError, match=r"planned with --decode gpu, and there is no GPU here; .* --device cpu"):
        run(out, INLINE)
    assert not Atlas.open(out).committed


def test_a_network_whose_resize_no_device_does_is_refused(spec: RunSpec, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(PreprocessConfig, "for_model", lambda *_: replace(FRAME, interpolation="lanczos"))
    with pytest.raises(UsageError, match="this network needs lanczos; use --decode processes"):
        plan(spec.model_copy(update={"decode": "gpu"}), str(tmp_path / "atlas"))
    assert not (tmp_path / "atlas").exists()


def test_a_batch_is_given_to_the_device_before_the_last_one_is_looked_at(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = str(tmp_path / "atlas"), []
    plan(spec, out)
    begin = Worker._start_batch

    def begun(worker: Worker, batch):
        first = batch.samples[0].ordinal
        done.append(f"begin {first}")
        return begin(worker, batch)._replace(wait=lambda: done.append(f"wait {first}"))

    monkeypatch.setattr(Worker, "_start_batch", begun)
    with Worker(out) as worker:
        found = list(worker.explain(1, batch_size=2))
    assert [each.row["ordinal"] for each in found] == list(range(7))
    assert done == ["begin 0", "begin 2", "wait 0", "begin 4", "wait 2", "begin 6", "wait 4", "wait 6"]


def test_half_a_batch_at_a_time_where_memory_ends_gives_every_row(
    finished: Path, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, out = Explainer._explain_chunk, str(tmp_path / "small")

    def small(self, images, targets, keys):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return part(self, images, targets, keys)

    monkeypatch.setattr(Explainer, "_explain_chunk", small)
    plan(spec, out)
    atlas, whole = run(out, INLINE), Atlas.open(str(finished))
    assert atlas.samples()["key"] == whole.samples()["key"]
    rows = whole.samples()["row"].to_numpy()
    for method in whole.methods:
        np.testing.assert_allclose(
            atlas.maps(method).values[rows].astype(float), whole.maps(method).values[rows].astype(float), atol=2e-3
        )


def test_an_error_in_the_next_batch_leaves_no_half_tar(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, begin = str(tmp_path / "atlas"), Worker._start_batch
    plan(spec, out)

    def breaks(worker: Worker, batch):
        if batch.samples[0].ordinal:
            raise OSError("the device is gone")
        return begin(worker, batch)

    monkeypatch.setattr(Worker, "_start_batch", breaks)
    with Worker(out) as worker, pytest.raises(OSError, match="the device is gone"):
        worker.process(0)
    assert not Atlas.open(out).committed


@pytest.mark.parametrize("processes", [0, 1])
def test_batches_of_both_decoders_say_the_same_of_every_sample(mixed: RunSpec, tmp_path: Path, processes: int) -> None:
    shard_name = tmp_path / "shards" / "part-1.tar"
    shard = ShardRecord("part-1", str(shard_name), 7, shard_name.stat().st_size)
    found = []
    for decoders in (DecoderPool(processes), DeviceDecoder(CPU, processes)):
        flat = [each for batch in iter_batches(shard, 7, FRAME, 3, 10, decoders) for each in batch.samples]
        known = [each.image and replace(each.image, pixels=None, fallback=None) for each in flat]
        found.append([replace(each, image=picture) for each, picture in zip(flat, known, strict=True)])
        decoders.close()
    assert found[0] == found[1]
