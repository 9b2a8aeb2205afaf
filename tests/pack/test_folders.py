"""Folders and tables of images: class ids, splits, keys, and what has two readings."""

import json
import unicodedata
from pathlib import Path

import pack_sources as sources
import pytest
from pack_sources import classes_of, labels_of, left_out_of, read_samples
from support import jpeg

from pipeline.pack import pack
from pipeline.read.shards import count_samples
from schemas.errors import UsageError


def test_class_folders_get_the_sorted_order_and_bytes_are_copied(tmp_path: Path) -> None:
    source, out = sources.image_folder(tmp_path / "in"), tmp_path / "out"
    notes: list[str] = []
    record, samples = pack("folder", source, out, per_shard=4, log=notes.append)
    assert (record.shards, samples) == (2, 6)
    assert classes_of(out) == ["Zebra", "a cat", "dög#2", "empty"]
    assert notes == [
        "the class empty has no image",
        "6 of 6 keys are not the names of their images, such as Zebra/img 0_v1 of Zebra/img 0.v1.JPG: truth of your "
        "own must name these images by their keys",
    ]
    packed = read_samples(out)
    assert labels_of(out) == {f"{name}/img {i}_v1": n for n, name in enumerate(classes_of(out)[:3]) for i in range(2)}
    assert packed["a cat/img 1_v1"]["jpg"] == jpeg(1)
    assert json.loads(packed["a cat/img 1_v1"]["json"]) == {
        "filename": "a cat/img 1.v1.JPG",
        "labels": [1],
        "classes": ["a cat"],
    }
    info = json.loads((out / "_info.json").read_text())["splits"]["all"]
    counted = count_samples([str(out / name) for name in info["filenames"]])
    assert [shard.samples for shard in counted] == info["shard_lengths"] == [4, 2]
    assert not (out / "truth").exists()


def test_numbered_folders_are_class_ids_and_other_numbers_are_refused(tmp_path: Path) -> None:
    for number in range(11):
        sources.write(tmp_path / "v2" / str(number) / "0.jpeg", jpeg(number))
    pack("folder", tmp_path / "v2", tmp_path / "out")
    assert labels_of(tmp_path / "out") == {f"{number}/0": number for number in range(11)}
    (tmp_path / "v2" / "0").rename(tmp_path / "v2" / "11")
    with pytest.raises(UsageError, match=r"may be class ids or names; .* --classes FILE"):
        pack("folder", tmp_path / "v2", tmp_path / "other")


def test_a_table_names_paths_labels_and_splits(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        sources.write(tmp_path / "in" / name, jpeg(1))
    sources.write(
        tmp_path / "in" / "list.csv",
        "\ufeffpath,label,split\r\na.jpg,cat,train\r\nb.jpg,dog,test\r\nc.jpg,cat,test\r\nx.jpg,dog,test\r\n",
    )
    pack("folder", tmp_path / "in", tmp_path / "out", "test", classes=["dog", "cat"])
    assert labels_of(tmp_path / "out") == {"b": 0, "c": 1}
    assert left_out_of(tmp_path / "out") == {"x.jpg": "does not exist"}
    rows = [{"path": "a.jpg", "label": 1}, {"path": "b.jpg", "label": 0}]
    sources.write(tmp_path / "in.jsonl", "\n".join(json.dumps(row | {"path": f"in/{row['path']}"}) for row in rows))
    pack("folder", tmp_path / "in.jsonl", tmp_path / "json")
    assert labels_of(tmp_path / "json") == {"in/a": 1, "in/b": 0}


def write_table(folder: Path, rows: str) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        sources.write(folder / name, jpeg(1))
    sources.write(folder / "list.csv", rows)
    return folder


def test_labels_of_a_table_are_class_ids_whatever_blanks_are_around_them(tmp_path: Path) -> None:
    source = write_table(tmp_path / "in", "path,label\na.jpg, 10\nb.jpg, 9 \nc.jpg,  \n")
    pack("folder", source, tmp_path / "out")
    assert labels_of(tmp_path / "out") == {"a": 10, "b": 9}


@pytest.mark.parametrize("label", ["3.0", "-1", "nan", ".5", "1e-3"])
def test_numbers_that_are_no_class_ids_are_refused_as_labels(tmp_path: Path, label: str) -> None:
    source = write_table(tmp_path / "in", f"path,label\na.jpg,2\nb.jpg,{label}\n")
    with pytest.raises(UsageError, match=f"the label {label} is a number, but no class id; .* --classes FILE"):
        pack("folder", source, tmp_path / "out")


@pytest.mark.parametrize("label", [True, 2.0, [1]])
def test_labels_in_json_are_class_ids_or_names(tmp_path: Path, label: object) -> None:
    source = write_table(tmp_path / "in", "")
    (source / "list.csv").unlink()
    sources.write(source / "list.jsonl", json.dumps({"path": "a.jpg", "label": label}))
    with pytest.raises(UsageError, match=r"the label of a\.jpg is .*; give a number or a text"):
        pack("folder", source, tmp_path / "out")


@pytest.mark.parametrize("is_absolute", [True, False])
def test_images_outside_of_the_folder_of_a_table_are_refused(tmp_path: Path, is_absolute: bool) -> None:
    name = tmp_path / "in" / "b.jpg" if is_absolute else "../in/b.jpg"
    source = write_table(tmp_path / "in", f"path,label\na.jpg,0\n{name},1\n")
    with pytest.raises(UsageError, match="leads out of the folder of the source"):
        pack("folder", source, tmp_path / "out")


def test_splits_are_not_mixed_and_are_no_classes(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", "path,label,split\na.jpg,0,train\nb.jpg,1,test\nc.jpg,1,\n")
    with pytest.raises(UsageError, match="has several splits; name one by --split: test, train"):
        pack("folder", table, tmp_path / "out")
    pack("folder", table, tmp_path / "out", "test")
    assert labels_of(tmp_path / "out") == {"b": 1}
    assert left_out_of(tmp_path / "out") == {"c.jpg": "has no split"}
    for split in ("train", "val"):
        sources.write(tmp_path / "folders" / split / "cat" / "a.jpg", jpeg(1))
    with pytest.raises(UsageError, match="has several splits; name one by --split: train, val"):
        pack("folder", tmp_path / "folders", tmp_path / "other")
    with pytest.raises(UsageError, match="has no folder tset; name a folder of it by --split"):
        pack("folder", tmp_path / "folders", tmp_path / "other", "tset")
    pack("folder", tmp_path / "folders", tmp_path / "other", "val")
    assert labels_of(tmp_path / "other") == {"cat/a": 0}
    assert classes_of(tmp_path / "other") == ["cat"]


def test_splits_under_any_names_are_told_from_classes_or_refused(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("train2017/ant/a", "train2017/bee/b", "val2017/bee/c", "devkit/data/d"):
        sources.write(source / f"{name}.jpg", jpeg(1))
    with pytest.raises(UsageError, match=r"folders of folders, such as \w+/\w+; .* --split; .* --classes FILE"):
        pack("folder", source, tmp_path / "all")
    for split, labels in {"train2017": {"ant/a": 0, "bee/b": 1}, "val2017": {"bee/c": 1}}.items():
        pack("folder", source, tmp_path / split, split)
        assert labels_of(tmp_path / split) == labels
        assert classes_of(tmp_path / split) == ["ant", "bee"]
    classes = ["devkit", "train2017", "val2017"]
    pack("folder", source, tmp_path / "meant", classes=classes)
    assert sorted(labels_of(tmp_path / "meant").values()) == [0, 1, 1, 2]


def test_classes_in_parts_of_their_own_need_no_option(tmp_path: Path) -> None:
    for name in ("cat/anna/1", "cat/ben/2", "dog/carl/3"):
        sources.write(tmp_path / "in" / f"{name}.jpg", jpeg(1))
    pack("folder", tmp_path / "in", tmp_path / "out")
    assert labels_of(tmp_path / "out") == {"cat/anna/1": 0, "cat/ben/2": 0, "dog/carl/3": 1}


def test_names_of_classes_are_found_in_either_unicode_form_and_twins_are_refused(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    sources.write(tmp_path / "in" / decomposed / "a.jpg", jpeg(1))  # as macOS stores it
    sources.write(tmp_path / "in" / "tea" / "b.jpg", jpeg(2))
    pack("folder", tmp_path / "in", tmp_path / "out", classes=["tea", composed])
    assert labels_of(tmp_path / "out") == {f"{decomposed}/a": 1, "tea/b": 0}
    assert classes_of(tmp_path / "out") == ["tea", composed]
    sources.write(tmp_path / "in" / composed / "a.jpg", jpeg(3))
    with pytest.raises(UsageError, match=r"'cafe\\u0301' and 'caf\\xe9' are one text in two Unicode forms"):
        pack("folder", tmp_path / "in", tmp_path / "twins")
    pack("folder", tmp_path / "in", tmp_path / "merged", classes=["tea", composed])
    assert labels_of(tmp_path / "merged") == {f"{decomposed}/a": 1, f"{composed}/a": 1, "tea/b": 0}
    with pytest.raises(UsageError, match="--classes: the class 'tea' stands there twice"):
        pack("folder", tmp_path / "in", tmp_path / "other", classes=["tea", composed, "tea"])


def test_classes_of_a_table_have_the_same_ids_in_all_splits(tmp_path: Path) -> None:
    rows = ["path,label,split", "a.jpg,ant,train", "b.jpg,bee,val", "c.jpg, cat ,val", "d.jpg, ,val"]
    for row in rows[1:]:
        sources.write(tmp_path / "in" / row[:5], jpeg(1))
    table = sources.write(tmp_path / "in" / "list.csv", "\n".join(rows))
    notes: list[str] = []
    pack("folder", table, tmp_path / "out", "val", log=notes.append)
    assert labels_of(tmp_path / "out") == {"b": 1, "c": 2}
    assert classes_of(tmp_path / "out") == ["ant", "bee", "cat"]
    assert notes == ["1 of 3 images have no label"]
    with pytest.raises(UsageError, match=r"has several splits; name one by --split: train, val"):
        pack("folder", table, tmp_path / "other")


def test_keys_of_a_table_are_paths_in_its_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c", "d.jpg.bak"):
        sources.write(tmp_path / "in" / name, jpeg(1))
    lines = ["path, label", "./a.jpg, 1", "./x/../b.jpg, 0", "c, 0", "d.jpg.bak, 0"]
    table = sources.write(tmp_path / "in" / "list.csv", "\n".join(lines))
    pack("folder", table, tmp_path / "out")
    assert labels_of(tmp_path / "out") == {"a": 1, "b": 0}
    assert left_out_of(tmp_path / "out") == dict.fromkeys(["c", "d.jpg.bak"], "is not an image by its extension")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "path,class\na.jpg,cat", "has a column class, but none called label"),
        ("t.csv", "path,label\na,b.jpg,cat", "row 1 has 3 columns, the first line 2"),
        ("t.csv", "path,label,split\na.jpg,cat", "row 1 has 2 columns, the first line 3"),
        ("t.csv", 'path,label\n"a.jpg,cat', "is not CSV"),
        ("t.csv", "path,path\na.jpg,b.jpg", "names a column twice"),
        ("t.csv", "a.jpg,cat", "has no column path"),
        ("t.csv", "path,label\na.jpg,-1\nb.jpg,0", "label -1 is a number, but no class id"),
        ("t.csv", "path,label\na.jpg,10.0\nb.jpg,2.0", "label 10.0 is a number, but no class id"),
        ("t.csv", "path,label\na.jpg,30000000", "has the class id 30000000"),
        ("t.csv", f"path,label\na.jpg,{'9' * 5000}", "is a number, but no class id"),
        ("t.csv", "path,label\n../a.jpg,0", "leads out of the folder of the source"),
        ("t.csv", "path,label\na.jpg,0\n./a.jpg,1", "has a.jpg twice"),
        ("t.jsonl", '{"path": "a.jpg", "label": [1, 2]}', r"label of a.jpg is \[1, 2\]"),
        ("t.jsonl", '{"path": "a.jpg", "label": 1.0}', "label of a.jpg is 1.0"),
        ("t.jsonl", '{"path": "a.jpg", "label": true}', "label of a.jpg is true"),
        ("t.jsonl", '["a.jpg"]', "line 1 is no mapping"),
    ],
)
def test_a_table_that_has_two_readings_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    for image in ("a.jpg", "b.jpg"):
        sources.write(tmp_path / "t" / image, jpeg(1))
    table = sources.write(tmp_path / "t" / name, text)
    with pytest.raises(UsageError, match=message):
        pack("folder", table, tmp_path / "out")
