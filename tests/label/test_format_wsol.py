"""Score maps for wsolevaluation, and prompts."""

import io
import json

import numpy as np
import pytest
from some_labels import CONTEXT, LABELS, label_of, shape, written

from pipeline.image.score_map import score_map, visible_window
from pipeline.label.formats import LABEL_FORMATS
from pipeline.label.mask import Label, with_mask
from schemas.errors import UsageError

MAPPED = [each for part in LABELS.values() for each in part if each.sample["status"] == "ok"]


def lines(objects: dict[str, bytes], name: str) -> list[list[str]]:
    """Fields of a metadata file, as the evaluator splits them."""
    return [line.split(",") for line in objects[f"wsol/metadata/{name}.txt"].decode().splitlines()]


def test_score_maps_stand_under_the_image_id_with_npy_behind_it() -> None:
    objects = written(LABEL_FORMATS["wsol"])
    ids = [fields[0] for fields in lines(objects, "image_ids")]
    assert ids == [each.sample["member"].removeprefix("./") for each in MAPPED]
    assert {name for name in objects if name.endswith(".npy")} == {f"wsol/score_maps/{each}.npy" for each in ids}
    for image_id, each in zip(ids, MAPPED, strict=True):
        scores = np.load(io.BytesIO(objects[f"wsol/score_maps/{image_id}.npy"]))
        assert (scores.shape, scores.dtype) == ((224, 224), np.float64)
        if each.status == "no_signal":
            assert not scores.any()
            continue
        assert (scores.min(), scores.max()) == (0, 1)
        assert np.array_equal(scores, score_map(each.heatmap.values, visible_window(each.sample, each.input_size)))


def test_the_score_map_of_a_mask_without_a_map_is_the_share_of_each_cell_that_is_object() -> None:
    """Also of a mask that is the whole image, and of an object smaller than a cell."""
    part = np.zeros((448, 448), bool)
    part[10, 20:22] = True
    sample = label_of(0, "a", shape((0, 0, 3, 3))).sample
    labels = [
        with_mask(Label({**sample, "member": name}, "ok", class_id=0), mask, np.zeros_like(mask))
        for name, mask in (("all", np.ones((448, 448), bool)), ("part", part))
    ]
    objects = dict(LABEL_FORMATS["wsol"].export("t", labels, CONTEXT))
    whole, small = (np.load(io.BytesIO(objects[f"wsol/score_maps/{name}.npy"])) for name in ("all", "part"))
    assert (whole == 1).all()
    assert small[5, 10] == small.sum() == 0.5


def test_metadata_say_classes_sizes_and_boxes() -> None:
    objects = written(LABEL_FORMATS["wsol"])
    ids = [each.sample["member"].removeprefix("./") for each in MAPPED]
    assert lines(objects, "class_labels") == [[i, str(e.class_id)] for i, e in zip(ids, MAPPED, strict=True)]
    sizes = [[i, str(e.sample["width"]), str(e.sample["height"])] for i, e in zip(ids, MAPPED, strict=True)]
    assert lines(objects, "image_sizes") == sizes
    boxes = [
        [image_id, *map(str, box)]
        for image_id, each in zip(ids, MAPPED, strict=True)
        for box in ((each.mask_rle is not None and each.boxes) or [(0, 0, 0, 0)])
    ]
    assert lines(objects, "localization") == boxes
    assert len(boxes) == 5 + 3


def test_every_list_names_every_image_that_has_a_score_map() -> None:
    """The evaluator looks up the class, the size, the boxes and the map of each id, and fails if one is not there."""
    objects = written(LABEL_FORMATS["wsol"])
    maps = {name.removeprefix("wsol/score_maps/").removesuffix(".npy") for name in objects if name.endswith(".npy")}
    for name in ("image_ids", "class_labels", "image_sizes", "localization"):
        assert {fields[0] for fields in lines(objects, name)} == maps
    assert {"ring.jpg", "nothing.jpg", "filtered.jpg", "dark.jpg"} <= maps


def test_a_comma_in_an_image_id_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'a,b\.jpg': cannot be the name of a file in this format"):
        list(LABEL_FORMATS["wsol"].export("t", iter([label_of(0, "a,b", shape((0, 0, 3, 3)))]), CONTEXT))


def test_the_window_is_what_the_network_saw() -> None:
    sample = {"width": 80, "height": 40, "scale_x": 1.25, "scale_y": 1.25, "offset_x": 20.0, "offset_y": 0.0}
    assert visible_window(sample, (32, 32)) == (0.25, 0.0, 0.75, 1.0)


def test_prompts_lie_where_they_say() -> None:
    for shard, part in LABELS.items():
        content = json.loads(written(LABEL_FORMATS["sam"])[f"sam/{shard}.json"])
        good = [each for each in part if each.mask_rle is not None and each.boxes]
        assert content["policy"] == CONTEXT.policy_hash
        for image, each in zip(content["images"], good, strict=True):
            assert (image["key"], image["label"]) == (each.sample["key"], each.class_id)
            assert image["image"] == each.sample["member"]
            assert [tuple(prompt["box"]) for prompt in image["prompts"]] == list(each.boxes)
            for prompt in image["prompts"]:
                x0, y0, x1, y1 = prompt["box"]
                assert 1 in prompt["point_labels"]
                for (x, y), positive in zip(prompt["point_coords"], prompt["point_labels"], strict=True):
                    assert each.mask[y, x] == positive
                    assert not each.ignore[y, x]
                    assert not positive or (x0 <= x <= x1 and y0 <= y <= y1)


def test_the_first_point_is_in_the_middle_of_a_disc_and_the_others_apart() -> None:
    rows, columns = np.ogrid[:80, :100]
    disc = (rows - 40) ** 2 + (columns - 60) ** 2 <= 20**2
    bar = shape((5, 10, 64, 15), size=(80, 100))
    for mask, middle in ((disc, [60, 40]), (bar, None)):
        (data,) = dict(LABEL_FORMATS["sam"].export("t", iter([label_of(0, "a", mask)]), CONTEXT)).values()
        (prompt,) = json.loads(data)["images"][0]["prompts"]
        inside = [point for point, sign in zip(prompt["point_coords"], prompt["point_labels"], strict=True) if sign]
        outside = [
            point for point, sign in zip(prompt["point_coords"], prompt["point_labels"], strict=True) if not sign
        ]
        if middle:
            assert inside == [middle]
        else:
            assert len(inside) == 3
            assert all(10 <= y <= 15 for _, y in inside)
            assert np.diff(sorted(x for x, _ in inside)).min() >= 3
        assert 1 <= len(outside) <= 3


def test_without_sure_background_there_is_no_negative_point() -> None:
    mask = shape((5, 5, 10, 10))
    (data,) = dict(LABEL_FORMATS["sam"].export("t", iter([label_of(0, "a", mask, ~mask)]), CONTEXT)).values()
    (prompt,) = json.loads(data)["images"][0]["prompts"]
    assert set(prompt["point_labels"]) == {1}
