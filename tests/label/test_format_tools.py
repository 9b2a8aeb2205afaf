"""Masks for people who look at them and correct them: cvat, labelstudio, fiftyone."""

import io
import json
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from some_labels import CONTEXT, LABELS, MASKED, NAMED, label_of, shape, written

from pipeline.label.formats import LABEL_FORMATS
from pipeline.label.formats.base import ExportContext
from pipeline.label.formats.labelstudio_rle import encode_brush_rle


def decode_rle(data: list[int]) -> np.ndarray:
    """Bytes of run lengths as Label Studio reads them: ``decode`` of ``rle-pack`` in thi.ng/umbrella.

    Its own converter cannot be installed beside these tests, as it brings a package of the name ``tests``.
    """
    bits, place = "".join(f"{byte:08b}" for byte in data), 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    size, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < size:
        run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if run else [read(word) for _ in range(length)]
    assert len(values) == size
    assert set(bits[place:]) <= {"0"}
    return np.array(values, np.uint8)


def cvat_labels(archive: zipfile.ZipFile) -> dict[tuple[int, ...], str]:
    """Labels by colour."""
    lines = [line for line in archive.read("labelmap.txt").decode().splitlines() if not line.startswith("#")]
    fields = [line.split(":") for line in lines]
    assert {len(each) for each in fields} == {4}
    return {tuple(map(int, colour.split(","))): name for name, colour, _, _ in fields}


def where(rgb: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    return (rgb == colour).all(-1)


def test_a_cvat_archive_says_by_colour_what_is_what() -> None:
    objects, maps = written(LABEL_FORMATS["cvat"], NAMED), {}
    for shard, part in LABELS.items():
        masked = [each for each in part if each.mask_rle is not None]
        with zipfile.ZipFile(io.BytesIO(objects[f"cvat/{shard}.zip"])) as archive:
            names = cvat_labels(archive)
            maps |= names
            assert len(set(names.values())) == len(names)
            listed = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
            keys = [each.sample["key"].removeprefix("./") for each in masked]
            assert listed == keys
            for key, each in zip(keys, masked, strict=True):
                by_class, by_object = (
                    np.array(Image.open(io.BytesIO(archive.read(f"{folder}/{key}.png"))))
                    for folder in ("SegmentationClass", "SegmentationObject")
                )
                expected = np.select(
                    [each.mask, each.ignore], [NAMED.class_name(each.class_id), "ignore"], "background"
                )
                for colour, name in names.items():
                    assert np.array_equal(where(by_class, colour), expected == name)
                assert np.array_equal(where(by_object, (128, 0, 0)), each.mask)
                assert np.array_equal(where(by_object, (0, 128, 0)), each.ignore)
    assert len(maps) == len(set(maps.values())) == 7


@pytest.mark.parametrize("name", ["background", "ignore", "a:b", "#a", "a\nb"])
def test_cvat_has_a_label_for_a_class_of_any_name(name: str) -> None:
    some = [
        label_of(0, "a", shape((0, 0, 3, 3)), class_id=254),
        label_of(1, "b", shape((0, 0, 3, 3)), class_id=1),
    ]
    context = ExportContext("h", ("other", name, *map(str, range(2, 255))))
    (data,) = dict(LABEL_FORMATS["cvat"].export("t", iter(some), context)).values()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = list(cvat_labels(archive).values())
    assert len(names) == len(set(names)) == 4


def test_label_studio_decodes_its_brush_to_the_mask() -> None:
    objects = written(LABEL_FORMATS["labelstudio"], NAMED)
    tasks = [task for shard in LABELS for task in json.loads(objects[f"labelstudio/shards/{shard}.json"])]
    assert [task["data"]["image"] for task in tasks] == [each.sample["member"] for each in MASKED]
    config = ElementTree.fromstring(objects["labelstudio/config.xml"])
    choices = [each.attrib["value"] for each in config.iter("Label")]
    (image,), (brush,) = config.iter("Image"), config.iter("BrushLabels")
    assert len(choices) == len(set(choices)) == 6
    for task, each in zip(tasks, MASKED, strict=True):
        (prediction,) = task["predictions"]
        assert (prediction["score"], prediction["model_version"]) == (each.probability, CONTEXT.policy_hash)
        assert task["data"][image.attrib["value"].removeprefix("$")] == each.sample["member"]
        found = {}
        for region in prediction["result"]:
            assert (region["from_name"], region["to_name"]) == (brush.attrib["name"], image.attrib["name"])
            assert (region["type"], region["value"]["format"]) == ("brushlabels", "rle")
            (name,) = region["value"]["brushlabels"]
            assert name in choices
            size = region["original_height"], region["original_width"], 4
            found[name] = decode_rle(region["value"]["rle"]).reshape(size)[..., 3] == 255
        expected = {NAMED.class_name(each.class_id): each.mask, "ignore": each.ignore}
        expected = {name: mask for name, mask in expected.items() if mask.any()}
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], mask) for name, mask in expected.items())


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (7, 5), (64, 64), (200, 300)])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1])
def test_brush_run_lengths_are_those_of_label_studio(size: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(1).random(size) < share
    assert np.array_equal(
        decode_rle(encode_brush_rle(mask)).reshape(*size, 4), np.repeat(mask[..., None] * 255, 4, axis=2)
    )


def test_names_of_classes_are_escaped_in_the_labelling_interface() -> None:
    context = ExportContext("h", ("""<b>"&'/>""", "ignore"))
    some = [label_of(row, f"{row}", shape((0, 0, 3, 3)), class_id=row) for row in (0, 1)]
    objects = dict(LABEL_FORMATS["labelstudio"].export("t", iter(some), context))
    objects |= dict(LABEL_FORMATS["labelstudio"].merge(["t"], objects.__getitem__, context))
    config = ElementTree.fromstring(objects["labelstudio/config.xml"])
    assert [each.attrib["value"] for each in config.iter("Label")] == ["""<b>"&'/>""", "ignore (1)", "ignore"]


def test_a_fiftyone_dataset_has_masks_classes_and_boxes() -> None:
    objects = written(LABEL_FORMATS["fiftyone"], NAMED)
    assert json.loads(objects["fiftyone/metadata.json"]) == {
        "media_type": "image",
        "info": {"policy": CONTEXT.policy_hash, "mask_targets": {"1": "object", "255": "ignore"}},
    }
    samples = json.loads(objects["fiftyone/samples.json"])["samples"]
    for sample, each in zip(samples, MASKED, strict=True):
        size = (each.sample["width"], each.sample["height"])
        assert sample["filepath"] == "data/" + each.sample["member"].removeprefix("./")
        assert (sample["row"], sample["key"], sample["status"]) == (each.sample["row"], each.sample["key"], each.status)
        assert sample["metadata"] == {"_cls": "ImageMetadata", "width": size[0], "height": size[1]}
        assert sample["pseudo_label"] == {
            "_cls": "Classification",
            "label": NAMED.class_name(each.class_id),
            "confidence": each.probability,
        }
        # its importer takes a path as relative to the dataset where fields/ has a folder of the field's name
        path = sample["pseudo_mask"]["mask_path"]
        assert path.startswith("fields/pseudo_mask/")
        image = Image.open(io.BytesIO(objects[f"fiftyone/{path}"]))
        assert image.mode == "L"  # of a palette it would take the colours for the values
        mask = np.array(image)
        assert np.array_equal(mask, np.where(each.ignore, 255, each.mask))
        boxes = [box["bounding_box"] for box in sample["pseudo_boxes"]["detections"]]
        corners = [(x, y, x + w - 1 / size[0], y + h - 1 / size[1]) for x, y, w, h in boxes]
        assert np.allclose(np.array(corners).reshape(-1, 4) * (size * 2), np.array(each.boxes).reshape(-1, 4))
