"""Every command finds the samples of a run as the run did: keys with dots, two images a sample, EXIF ignored."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import encode, in_one_process, jpeg, write_tar

from pipeline.explain.artifacts import read_artifact
from pipeline.label import MaskDataset, label
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import score_masks
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.errors import UsageError
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec

ORIENTATIONS = {"22.05": 1, "22.06": 3, "22.07": 6, "b/1.2.3": 8}
SIZE = (40, 30)
FLAGS = ("--key-separator", "last-dot", "--image-key", "JPG", "--exif", "ignore")
POLICY = Policy(name="p", methods=("legrad",), threshold=Threshold(kind="otsu"))


def stored(number: int) -> bytes:
    """JPEG of 40 × 30 pixels with its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = list(ORIENTATIONS.values())[number]
    return jpeg(number, SIZE, exif=exif)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A shard whose samples have a second image, of another size."""
    other = encode(Image.new("L", (7, 9)), "PNG")
    members = [
        (f"{key}.{extension}", data)
        for number, key in enumerate(ORIENTATIONS)
        for extension, data in (("png", other), ("jpg", stored(number)), ("cls", str(number).encode()))
    ]
    return str(write_tar(tmp_path_factory.mktemp("shards") / "part-0.tar", members))


@pytest.fixture(scope="module")
def atlas(shard: str, checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("run") / "atlas")
    options = {"key_separator": "last-dot", "image_key": ("jpg",), "exif": "ignore"}
    plan(RunSpec(shards=(shard,), model=checkpoint, methods=("legrad",), **options), out)
    run(out, INLINE)
    return out


@pytest.fixture(scope="module")
def labels(atlas: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    with in_one_process():
        label(Atlas.open(atlas), POLICY, ["png"], str(folder))
    return folder


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes of the stored images."""
    images = [
        {"id": number, "file_name": f"{key}.jpg", "width": SIZE[0], "height": SIZE[1]}
        for number, key in enumerate(ORIENTATIONS, 1)
    ]
    square = {"category_id": 1, "bbox": [2, 3, 20, 9], "iscrowd": 0, "segmentation": [[2, 3, 22, 3, 22, 12, 2, 12]]}
    annotations = [square | {"id": image["id"], "image_id": image["id"]} for image in images]
    file = tmp_path_factory.mktemp("truth") / "boxes.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "o"}]}))
    return file


def test_a_score_finds_the_truth_of_keys_with_dots(vitatlas, atlas: str, truth: Path, tmp_path: Path) -> None:
    code, _, error = vitatlas("score", atlas, "--truth", truth)
    assert code == 2
    assert "22.06: has the EXIF orientation 3" in error
    code, printed, error = vitatlas(
        "score", atlas, "--truth", truth, "--truth-orientation", "stored", "--json", "--out", tmp_path / "scores"
    )
    assert code == 0, error
    assert json.loads(printed)[0]["images"] == len(ORIENTATIONS)


def test_masks_are_of_the_pixels_that_the_run_has_seen(shard: str, labels: Path) -> None:
    samples = list(MaskDataset(shard, labels / "png"))
    assert [sample.key for sample in samples] == list(ORIENTATIONS)
    for number, sample in enumerate(samples):
        as_stored = np.asarray(Image.open(io.BytesIO(stored(number))))  # Pillow does not turn images
        assert np.array_equal(sample.image.permute(1, 2, 0), as_stored)
        assert sample.mask.shape == as_stored.shape[:2]


def test_scores_of_masks_know_the_orientation_of_the_masks(labels: Path, truth: Path) -> None:
    scores = score_masks(str(labels), read_truth(truth, "stored", key_separator="last-dot"))
    assert scores.images == len(ORIENTATIONS)
    with pytest.raises(UsageError, match=r"22\.06: has the EXIF orientation 3, .* --truth-orientation stored"):
        score_masks(str(labels), read_truth(truth, key_separator="last-dot"))
    upright = read_truth(truth, "upright", key_separator="last-dot")
    with pytest.raises(UsageError, match=r"22\.07: is 30×40 pixels, but 40×30 in the truth; .* --truth-orientation"):
        score_masks(str(labels), upright)


@pytest.fixture
def training(shard: str, checkpoint: ModelSpec, tmp_path: Path) -> list[object]:
    members = [(f"{key}.jpg", jpeg(number, SIZE)) for number, key in enumerate(["9.1", "9.2"])]
    held_out = write_tar(tmp_path / "held.tar", [*members[:1], ("9.1.cls", b"1"), *members[1:], ("9.2.cls", b"2")])
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    return ["train", "pm", shard, "--held-out", held_out, *model, "--steps", 1, "--out", tmp_path / "pm.safetensors"]


def test_training_on_masks_finds_the_samples_by_its_options(
    vitatlas, training: list[object], truth: Path, tmp_path: Path
) -> None:
    code, _, error = vitatlas(*training, "--masks", truth)
    assert code == 2
    assert "two images have the key 22" in error
    orientation = ("--truth-orientation", "stored")
    code, _, error = vitatlas(*training, "--masks", truth, "--key-separator", "last-dot", *orientation)
    assert code == 2
    assert "sample 22.05 has 2 images (22.05.png, 22.05.jpg); choose the image by --image-key png" in error
    code, _, error = vitatlas(*training, "--masks", truth, *FLAGS, *orientation)
    assert code == 0, error
    card = read_artifact(str(tmp_path / "pm.safetensors")).record
    assert card is not None
    assert card.supervision.startswith("labels, and 4 masks of 4 images")


def test_training_on_pseudo_masks_follows_their_atlas(
    vitatlas, training: list[object], atlas: str, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text("name: p\nmethods: [legrad]\nthreshold: {kind: otsu}\n")
    source = ("--atlas", atlas, "--policy", tmp_path / "p.yaml")
    code, _, error = vitatlas(*training, *source, "--exif", "apply")
    assert code == 2
    assert "--exif: the atlas of the pseudo-masks has ignore; leave it out" in error
    code, _, error = vitatlas(*training, *source)
    assert code == 0, error
    card = read_artifact(str(tmp_path / "pm.safetensors")).record
    assert card is not None
    assert card.metrics["left_out"] == 0


def test_training_on_pseudo_masks_finds_the_labels_as_their_atlas(
    vitatlas, checkpoint: ModelSpec, tmp_path: Path
) -> None:
    names, shards = [f"class {number}" for number in range(10)], []
    for name, numbers in (("train", (0, 1)), ("held", (2, 3))):
        members = []
        for number in numbers:
            record = json.dumps({"class": names[number]}).encode()
            members += [(f"{number}.jpg", jpeg(number, SIZE)), (f"{number}.cls", b"?"), (f"{number}.json", record)]
        shards.append(str(write_tar(tmp_path / f"{name}.tar", members)))
    spec = RunSpec(shards=(shards[0],), model=checkpoint, methods=("legrad",), label_key="class", classes=tuple(names))
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    (tmp_path / "p.yaml").write_text("name: p\nmethods: [legrad]\nthreshold: {kind: otsu}\n")
    command = ["train", "pm", shards[0], "--held-out", shards[1], "--model", checkpoint.name, "--steps", 1]
    command += ["--checkpoint", checkpoint.checkpoint, "--atlas", tmp_path / "atlas", "--policy", tmp_path / "p.yaml"]
    code, _, error = vitatlas(*command, "--out", tmp_path / "pm.safetensors")
    assert code == 0, error
    card = read_artifact(str(tmp_path / "pm.safetensors")).record
    assert card is not None
    assert card.metrics["left_out"] == 0
