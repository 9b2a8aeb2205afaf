"""Which images a page shows, what it says of them, and what it leaves alone."""

import hashlib
import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from annotate.conftest import CORNER, KEYS, NAMES, read_data
from PIL import Image
from scipy.stats import spearmanr
from support import jpeg, write_tar

from pipeline.annotate import write_page
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.errors import UsageError
from schemas.run import RunSpec


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_images_are_upright_in_their_shape_and_their_files_have_numbers(drawn: Path) -> None:
    data = read_data(drawn / "page")
    assert sorted(image["file"] for image in data["images"]) == sorted(f"{key}.jpg" for key in KEYS)
    assert sorted(path.name for path in (drawn / "page" / "images").iterdir()) == sorted(f"{n}.jpg" for n in range(10))
    x0, y0, x1, y1 = CORNER
    for number, image in enumerate(data["images"]):
        values = np.asarray(Image.open(drawn / "page" / "images" / f"{number}.jpg").convert("L"), int)
        assert values.shape == (image["height"], image["width"]) == (40, 60)
        white = values > 190
        assert white[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].all()
        assert white.sum() <= (y1 - y0 + 2) * (x1 - x0 + 2)
        assert not image["key"].count("\u202e")
    categories = {item["id"]: item["name"] for item in data["categories"]}
    assert {image["file"]: categories[image["categories"][0]] for image in data["images"]}["cat/001.jpg"] == NAMES[0]
    assert data["info"]["orientation"] == "upright"


def test_equal_choices_give_equal_bytes_and_a_longer_one_goes_on_from_a_shorter(drawn: Path, tmp_path: Path) -> None:
    atlas = Atlas.open(str(drawn / "atlas"))
    for name, count, seed in (("a", 4, 0), ("b", 4, 0), ("more", 7, 0), ("other", 7, 1)):
        assert write_page(atlas, str(tmp_path / name), count, seed=seed)[1] == count
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    files = {name: [image["file"] for image in read_data(tmp_path / name)["images"]] for name in ("a", "more", "other")}
    assert files["more"][:4] == files["a"]
    assert files["other"] != files["more"]


def test_disagreement_chooses_the_images_with_the_lowest_mean_rank_correlation(tmp_path: Path, finished: Path) -> None:
    atlas = Atlas.open(str(finished))
    write_page(atlas, str(tmp_path / "page"), 6, "disagreement")
    agreement = {}
    methods = [name for name in atlas.methods if name != "random"]
    for key in atlas.samples_with_maps(["key"])["key"].to_pylist():
        maps = [atlas.map(key, method).ravel() for method in methods]
        agreement[f"{key}.jpg"] = np.mean([spearmanr(*pair).statistic for pair in combinations(maps, 2)])
    shown = [image["file"] for image in read_data(tmp_path / "page")["images"]]
    assert shown == sorted(agreement, key=agreement.__getitem__)[:6]


def test_one_method_cannot_disagree(tmp_path: Path, spec: RunSpec) -> None:
    plan(spec.model_copy(update={"methods": ("attention", "random")}), str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    with pytest.raises(UsageError, match="has 1 methods besides controls, and disagreement needs at least two"):
        write_page(atlas, str(tmp_path / "page"), 6, "disagreement")


def test_images_of_one_key_are_left_out_with_a_word(tmp_path: Path, spec: RunSpec) -> None:
    for shard in range(2):
        members = [(f"{key}.{kind}", data) for key in ("same", f"own{shard}") for kind, data in
                   (("jpg", jpeg(shard)), ("cls", b"1"))]  # fmt: skip
        write_tar(tmp_path / "twice" / f"{shard}.tar", members)
    plan(spec.model_copy(update={"shards": (str(tmp_path / "twice" / "{0..1}.tar"),)}), str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    notes: list[str] = []
    write_page(atlas, str(tmp_path / "page"), log=notes.append)
    assert sorted(image["file"] for image in read_data(tmp_path / "page")["images"]) == ["own0.jpg", "own1.jpg"]
    assert notes == ["2 images share their key with others, so no truth could name them; they are left out"]


def test_other_files_are_never_overwritten_and_an_interrupted_page_is_completed(drawn: Path, tmp_path: Path) -> None:
    atlas = Atlas.open(str(drawn / "atlas"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "annotations.json").write_text("{}")
    with pytest.raises(UsageError, match="mine: is not empty; choose another --out"):
        write_page(atlas, str(tmp_path / "mine"))
    page = shutil.copytree(drawn / "page", tmp_path / "page")
    with pytest.raises(UsageError, match="page: holds a page of other images; choose another --out"):
        write_page(atlas, str(page), 3, names=NAMES)
    for name in ("index.html", "images/3.jpg"):
        (page / name).unlink()
    (page / "annotations.json").write_text("{}")
    write_page(atlas, str(page), names=NAMES)
    assert digests(page) == digests(drawn / "page") | {"annotations.json": hashlib.sha256(b"{}").hexdigest()}


def test_the_command_says_where_the_page_is_and_what_comes_next(vitatlas, drawn: Path, tmp_path: Path) -> None:
    code, out, _ = vitatlas("annotate", drawn / "atlas", "--images", "3", "--out", tmp_path / "page")
    assert code == 0
    assert f"page     {tmp_path / 'page'}/index.html, 3 images" in out
    assert "--truth annotations.json --subset" in out
    code, out, _ = vitatlas("annotate", drawn / "atlas", "--images", "3", "--out", tmp_path / "page", "--json")
    assert json.loads(out) == {"page": f"{tmp_path / 'page'}/index.html", "images": 3}


def test_a_file_of_whole_keys_means_no_image_of_another_folder(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "cat/001.jpg", "width": 40, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 4, 5]}],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    truth = read_truth(file)
    assert truth.find("dog/001") is truth.find("cat/001")  # as ILSVRC needs it
    file.write_text(json.dumps(content | {"info": {"vit_atlas": {"whole_keys": True, "orientation": "upright"}}}))
    truth = read_truth(file)
    assert truth.find("dog/001") is truth.find("001") is truth.subset(["dog/001"]).find("cat/001") is None
    found = truth.find("cat/001")
    assert found is not None
    turned = {"key": "cat/001", "width": 40, "height": 40, "orientation": 6}
    assert found.for_sample(turned, "apply").boxes.tolist() == [[2, 3, 5, 7]]
    assert found.for_sample(turned, "ignore").boxes.tolist() == [[3, 34, 7, 37]]
    file.write_text(json.dumps(content | {"info": {"vit_atlas": {"orientation": "sideways"}}}))
    with pytest.raises(UsageError, match=r"truth.json: info.vit_atlas: orientation"):
        read_truth(file)


def test_boxes_of_stored_images_are_shown_and_meant_as_stored(drawn: Path, tmp_path: Path) -> None:
    spec = Atlas.open(str(drawn / "atlas")).run.spec
    plan(spec.model_copy(update={"exif": "ignore", "methods": ("center",)}), str(tmp_path / "atlas"))
    write_page(run(str(tmp_path / "atlas"), INLINE), str(tmp_path / "page"), names=NAMES)
    data = read_data(tmp_path / "page")
    place = [image["file"] for image in data["images"]].index("dog/turned.jpg")
    assert (data["images"][place]["width"], data["images"][place]["height"]) == (40, 60)
    values = np.asarray(Image.open(tmp_path / "page" / "images" / f"{place}.jpg").convert("L"), int)
    rows, columns = np.nonzero(values > 190)
    x0, y0, x1, y1 = CORNER  # stored turned to the left: x' = y, y' = 60 - x
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert abs(found - [y0, 60 - x1, y1, 60 - x0]).max() <= 1
    assert data["info"]["orientation"] == "stored"


def test_label_calibrates_a_threshold_on_the_saved_boxes(vitatlas, drawn: Path, tmp_path: Path) -> None:
    data = read_data(drawn / "page")
    images = [{"id": 1, "file_name": "cat/001.jpg", "width": 60, "height": 40}]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [12, 9, 18, 9], "area": 162, "iscrowd": 0}]
    content = {"info": {"vit_atlas": data["info"]}, "images": images, "annotations": boxes}
    (tmp_path / "annotations.json").write_text(json.dumps(content | {"categories": data["categories"]}))
    (tmp_path / "policy.yaml").write_text("name: tuned\nmethods: [center]\nthreshold: {kind: calibrated}\n")
    given = ["--policy", tmp_path / "policy.yaml", "--tune", tmp_path / "annotations.json", "--format", "coco"]
    code, _, err = vitatlas("label", drawn / "atlas", *given, "--out", tmp_path / "masks")
    assert code == 0, err
    assert "of 1 images in annotations.json" in (tmp_path / "masks" / "policy.json").read_text()
