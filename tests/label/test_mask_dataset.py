"""Pictures and masks come together as they belong together, once each, in an order that can be had again."""

import io
import json
import logging
import pickle
import tarfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image, ImageOps
from support import encode, jpeg, write_tar
from torch.utils.data import DataLoader

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import MaskDataset, iter_labels, label
from pipeline.store import Atlas
from schemas.errors import CorruptShardError, UsageError
from schemas.policy import Policy, Postprocess, Threshold

SIZE = (40, 30)


def mask_of(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """0, 1 and 255 at random."""
    return np.random.default_rng(number).choice(np.array([0, 1, 255], np.uint8), size[::-1])


def png(values: np.ndarray) -> bytes:
    return encode(Image.fromarray(values), "PNG")


def about(status: str = "ok", number: int = 3) -> bytes:
    return json.dumps({"status": status, "label": number % 10}).encode()


def picture(number: int, key: str | None = None) -> list[tuple[str, bytes]]:
    return [(f"{key or f's{number:03d}'}.jpg", jpeg(number, SIZE))]


def masked(number: int, key: str | None = None) -> list[tuple[str, bytes]]:
    key = key or f"s{number:03d}"
    return [(f"{key}.mask.png", png(mask_of(number))), (f"{key}.json", about(number=number))]


def shards(folder: Path, sizes: Iterable[int] = (5, 7, 4)) -> tuple[Path, Path]:
    """Folders of image shards of so many samples, and of their masks."""
    first = 0
    for index, count in enumerate(sizes):
        numbers = range(first, first + count)
        write_tar(folder / "images" / f"part-{index}.tar", [each for n in numbers for each in picture(n)])
        write_tar(folder / "masks" / f"part-{index}.tar", [each for n in numbers for each in masked(n)])
        first += count
    return folder / "images", folder / "masks"


def pair(
    folder: Path, images: list[tuple[str, bytes]], masks: list[tuple[str, bytes]], **options: object
) -> MaskDataset:
    """Of one shard with these members, and its mask shard."""
    write_tar(folder / "images" / "one.tar", images)
    write_tar(folder / "masks" / "one.tar", masks)
    return MaskDataset(folder / "images", folder / "masks", **options)


def keys(dataset: MaskDataset | DataLoader) -> list[str]:
    return [sample.key for sample in dataset]


def whole(samples: list) -> list:
    """A collation of pictures of any size."""
    return samples


def test_masks_are_those_that_label_writes(world: SyntheticDataset, atlas: Atlas, tmp_path: Path) -> None:
    cuts = {"threshold": Threshold(kind="otsu", scale=1.1), "background_threshold": Threshold(kind="otsu", scale=0.7)}
    policy = Policy(name="p", methods=("legrad",), postprocess=Postprocess(min_area=0.01), **cuts)
    label(atlas, policy, ["png"], str(tmp_path))
    labels = {each.sample["key"]: each for shard in atlas.commits for each in iter_labels(atlas, shard, policy)}
    dataset = MaskDataset(world.shards, tmp_path / "png")
    found = {sample.key: sample for sample in dataset}
    assert set(found) == {key for key, each in labels.items() if each.status == "ok"}
    assert len(found) + dataset.skipped.total() == len(labels)
    for key, sample in found.items():
        assert sample.image.dtype == sample.mask.dtype == torch.uint8
        assert sample.image.shape == (3, *sample.mask.shape)
        assert np.array_equal(sample.mask == 1, labels[key].mask)
        assert np.array_equal(sample.mask == 255, labels[key].ignore)
        assert sample.label == labels[key].sample["label"]
    assert any((sample.mask == 255).any() for sample in found.values())


def test_pixels_are_those_of_the_picture(tmp_path: Path) -> None:
    for number, sample in enumerate(MaskDataset(*shards(tmp_path))):
        shown = np.asarray(Image.open(io.BytesIO(jpeg(number, SIZE))))
        assert np.array_equal(sample.image.permute(1, 2, 0), shown)
        assert np.array_equal(sample.mask, mask_of(number))
        assert sample.label == number % 10


def test_a_picture_that_lies_on_its_side_is_turned_as_its_mask_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90°
    lying = np.zeros((30, 40, 3), np.uint8)
    lying[:, :20] = 255  # its left half is on top when it stands
    standing = np.zeros((40, 30), np.uint8)
    standing[:20] = 1
    image = encode(Image.fromarray(lying), "PNG", exif=exif)
    mask = [("a.mask.png", png(standing)), ("a.json", about())]
    (sample,) = pair(tmp_path, [("a.png", image)], mask)
    assert torch.equal(sample.image == 255, (sample.mask == 1).expand(3, -1, -1))


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_the_record_says_whether_the_image_is_turned(orientation: int, exif: str, tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = orientation
    image = jpeg(0, SIZE, exif=tag)
    seen = Image.open(io.BytesIO(image))
    seen = ImageOps.exif_transpose(seen) if exif == "apply" else seen
    record = json.dumps({"status": "ok", "label": 3, "exif": exif}).encode()
    (sample,) = pair(tmp_path, [("a.jpg", image)], [("a.mask.png", png(mask_of(0, seen.size))), ("a.json", record)])
    assert np.array_equal(sample.image.permute(1, 2, 0), np.asarray(seen))


def test_a_mask_of_a_turned_image_that_nothing_decides_is_refused(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 3
    dataset = pair(tmp_path, [("s000.jpg", jpeg(0, SIZE, exif=tag))], masked(0))
    with pytest.raises(UsageError, match=r's000.json: does not say .* write "exif": "ignore" or "apply" into it'):
        keys(dataset)


def test_an_image_of_another_rule_of_keys_is_found_by_the_record(tmp_path: Path) -> None:
    rule = {"status": "ok", "label": 3, "key_separator": "last-dot", "image_key": ["jpg"]}
    images = [("1.5.png", png(mask_of(9))), *picture(1, "1.5"), ("1.6.png", png(mask_of(9))), *picture(2, "1.6")]
    masks = [(f"1.{n}.mask.png", png(mask_of(n))) for n in (5, 6)]
    records = [(f"1.{n}.json", json.dumps(rule).encode()) for n in (5, 6)]
    dataset = pair(tmp_path, images, [masks[0], records[0], masks[1], records[1]])
    assert keys(dataset) == ["1.5", "1.6"]
    assert [np.array_equal(sample.mask, mask_of(n)) for n, sample in zip((5, 6), dataset, strict=True)] == [True, True]


def test_what_has_no_mask_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [each for n in range(6) for each in picture(n)]
    images[2:2] = picture(1)  # a second one of that key
    images += picture(9, "../out")
    masks = masked(0) + masked(1) + [("s002.json", about("not_top1")), ("s003.json", about("undecodable"))]
    empty = [("s004.mask.png", png(np.zeros(SIZE[::-1], np.uint8))), ("s004.json", about("empty"))]
    dataset = pair(tmp_path, images, masks + empty + masked(5))
    with caplog.at_level(logging.WARNING):
        assert keys(dataset) == ["s000", "s001", "s005"]
    assert dataset.skipped == {"no_mask": 2, "not_top1": 1, "undecodable": 1, "empty": 1}
    assert (
        "samples of 1 shards without a usable mask were skipped: 1 empty, 2 no_mask, 1 not_top1, 1 undecodable"
        in caplog.text
    )


@pytest.mark.parametrize(("workers", "sizes"), [(0, (5, 7, 4)), (1, (5, 7, 4)), (2, (5, 7, 4)), (2, (16,))])
@pytest.mark.parametrize("shuffle", [0, 6])
def test_workers_give_every_sample_once(tmp_path: Path, workers: int, sizes: tuple[int, ...], shuffle: int) -> None:
    dataset = MaskDataset(*shards(tmp_path, sizes), shuffle=shuffle)
    found = [key for batch in DataLoader(dataset, 2, num_workers=workers, collate_fn=whole) for key, *_ in batch]
    assert sorted(found) == [f"s{number:03d}" for number in range(16)]
    assert (found == sorted(found)) == (shuffle == 0 and (workers < 2 or len(sizes) == 1))


def test_ranks_share_the_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = shards(tmp_path)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        dataset = MaskDataset(*folders, shuffle=3)
        dataset.set_epoch(4)
        parts.append(keys(pickle.loads(pickle.dumps(dataset))))
    assert all(parts)
    assert sorted(parts[0] + parts[1]) == [f"s{number:03d}" for number in range(16)]
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    with pytest.raises(UsageError, match="3 shards are too few for 4 ranks"):
        MaskDataset(*folders)


def test_order_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    folders = shards(tmp_path)

    def order(seed: int, epoch: int) -> list[str]:
        dataset = MaskDataset(*folders, shuffle=8, seed=seed)
        dataset.set_epoch(epoch)
        return keys(dataset)

    assert order(0, 0) == order(0, 0) == keys(pickle.loads(pickle.dumps(MaskDataset(*folders, shuffle=8))))
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4


def test_workers_that_stay_hear_of_the_epoch(tmp_path: Path) -> None:
    dataset = MaskDataset(*shards(tmp_path), shuffle=8)
    loader = DataLoader(dataset, None, num_workers=1, persistent_workers=True)
    first = keys(loader)
    dataset.set_epoch(1)
    assert keys(loader) == keys(dataset) != first


def test_a_buffer_mixes_tars(tmp_path: Path) -> None:
    found = keys(MaskDataset(*shards(tmp_path), shuffle=16))
    shard = [0] * 5 + [1] * 7 + [2] * 4
    changes = sum(shard[int(one[1:])] != shard[int(other[1:])] for one, other in pairwise(found))
    assert changes > 2


def small(sample: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    return sample.image[:, :8, :8], sample.mask[:8, :8]


def test_what_the_transform_returns_is_batched(tmp_path: Path) -> None:
    images, masks = next(iter(DataLoader(MaskDataset(*shards(tmp_path), transform=small), 4)))
    assert (images.shape, masks.shape) == ((4, 3, 8, 8), (4, 8, 8))


@pytest.mark.parametrize("kind", ["folder", "braces", "glob", "list", "url", "packed"])
def test_tars_are_named_in_every_way(tmp_path: Path, kind: str) -> None:
    images, masks = shards(tmp_path)
    named = {
        "folder": (images, f"{masks}/"),
        "braces": (f"{images}/part-{{0..2}}.tar", f"{masks}/part-{{0..2}}.tar"),
        "glob": (f"{images}/part-*.tar", f"{masks}/*"),
        "list": ([images / f"part-{n}.tar" for n in range(3)], [masks]),
        "url": ("memory://dataset/images", "memory://dataset/masks"),
        "packed": (f"{images}/*.gz", masks),
    }[kind]
    if kind == "url":
        fsspec.filesystem("memory").put(str(tmp_path), "/dataset", recursive=True)
    if kind == "packed":
        for shard in images.glob("*.tar"):
            with fsspec.open(f"{shard}.gz", "wb", compression="gzip") as packed:
                packed.write(shard.read_bytes())
    assert keys(MaskDataset(*named)) == [f"s{number:03d}" for number in range(16)]


def test_masks_of_other_tars_are_left_alone(tmp_path: Path) -> None:
    images, masks = shards(tmp_path)
    assert keys(MaskDataset(images / "part-1.tar", masks)) == [f"s{number:03d}" for number in range(5, 12)]


def test_an_image_tar_may_be_damaged_behind_what_was_labelled(tmp_path: Path) -> None:
    dataset = pair(tmp_path, [each for n in range(3) for each in picture(n)], masked(0))
    shard = tmp_path / "images" / "one.tar"
    with tarfile.open(shard) as archive:
        end = archive.getmember("s002.jpg").offset_data
    shard.write_bytes(shard.read_bytes()[: end + 100])
    assert keys(dataset) == ["s000"]


@pytest.mark.parametrize(
    ("images", "masks", "says"),
    [
        (picture(0), masked(1), r"masks/one.tar: has s001, which .*images/one.tar does not have in this order"),
        (picture(0) + picture(1), masked(1) + masked(0), "has s000, which .* does not have in this order"),
        (picture(0), masked(0)[:1], r"s000.json has no status and label"),
        (picture(0), masked(0)[1:], "s000 must have a mask, but it or the image in .*images/one.tar is missing"),
        (picture(0), [("s000.mask.png", b"junk"), ("s000.json", about())], "s000.mask.png: cannot be read as a PNG"),
        (
            picture(0),
            [("s000.mask.png", png(np.full((30, 40), 7, np.uint8))), ("s000.json", about())],
            "s000.mask.png: must be an indexed PNG of 0, 1 and 255",
        ),
        (
            picture(0),
            [("s000.mask.png", png(mask_of(0, (41, 30)))), ("s000.json", about())],
            r"images/one.tar: s000 is 40×30 pixels, its mask in .*masks/one.tar 41×30",
        ),
        (picture(0), [("s000.json", b'{"status": "ok"}')], "s000.json has no status and label"),
        ([("s000.jpg", b"\xff\xd8\xffjunk")], masked(0), r"images/one.tar: s000 has a mask, but cannot be decoded"),
        ([("s000.cls", b"3"), *picture(1)], masked(0), "s000 must have a mask, but it or the image in"),
    ],
)
def test_masks_that_do_not_fit_are_named(
    tmp_path: Path, images: list[tuple[str, bytes]], masks: list[tuple[str, bytes]], says: str
) -> None:
    dataset = pair(tmp_path, images, masks)
    with pytest.raises(UsageError, match=says):
        keys(dataset)


@pytest.mark.parametrize("side", ["images", "masks"])
def test_a_damaged_tar_is_named(tmp_path: Path, side: str) -> None:
    folders = shards(tmp_path)
    shard = tmp_path / side / "part-1.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(CorruptShardError, match=rf"{side}/part-1.tar: "):
        keys(MaskDataset(*folders))


def test_tars_that_are_not_there_are_named(tmp_path: Path) -> None:
    images, masks = shards(tmp_path)
    (masks / "part-1.tar").unlink()
    with pytest.raises(UsageError, match=r"images/part-1.tar: there is no part-1.tar among its masks"):
        MaskDataset(images, masks)
    with pytest.raises(UsageError, match=r"nowhere.tar: no such shard"):
        MaskDataset(tmp_path / "nowhere.tar", masks)
    with pytest.raises(UsageError, match="no image shards are named"):
        MaskDataset([], masks)


@pytest.mark.parametrize("side", [0, 1])
def test_no_shell_command_is_run(tmp_path: Path, side: int) -> None:
    sources: list = list(shards(tmp_path))
    sources[side] = [f"pipe:touch {tmp_path}/ran", "x.tar"]
    with pytest.raises(UsageError, match="is a shell command, which is not run here"):
        MaskDataset(*sources)
    assert not (tmp_path / "ran").exists()
