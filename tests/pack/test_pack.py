"""Each source packs to the samples, class ids and truth that its own files say, whatever interrupts it."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pack_sources as sources
import pytest
from support import jpeg

from jobs.pack import KINDS
from pipeline.pack import SOURCES, pack, pack_dataset
from pipeline.pack.class_order import describe_first_difference
from pipeline.read.shards import count_samples
from pipeline.truth import read_truth
from schemas.errors import UsageError


def read_samples(out: Path) -> dict[str, dict[str, bytes]]:
    """Members of each sample by extension."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.rpartition(".")
                stream = archive.extractfile(member)
                assert stream is not None
                assert (member.mtime, member.uid, member.mode) == (0, 0, 0o644)
                samples.setdefault(key, {})[extension] = stream.read()
    return samples


def labels_of(out: Path) -> dict[str, int]:
    return {key: int(members["cls"]) for key, members in read_samples(out).items() if "cls" in members}


def classes_of(out: Path) -> list[str]:
    return (out / "classes.txt").read_text().splitlines()


def left_out_of(out: Path) -> dict[str, str]:
    with open(out / "left_out.csv", newline="") as stream:
        return {row["name"]: row["reason"] for row in csv.DictReader(stream)}


def boxes_of(out: Path) -> dict[str, list[list[int]]]:
    truth = read_truth(out / "truth")
    return {key: item.boxes.tolist() for key, item in truth.by_key.items()}


def digests(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_source_is_a_choice_of_the_command() -> None:
    assert list(KINDS) == list(SOURCES)


def test_class_folders_get_the_sorted_order_and_bytes_are_copied(tmp_path: Path) -> None:
    source, out = sources.image_folder(tmp_path / "in"), tmp_path / "out"
    notes: list[str] = []
    record, samples = pack("folder", source, out, per_shard=4, log=notes.append)
    assert (record.shards, samples) == (2, 6)
    assert classes_of(out) == ["Zebra", "a cat", "dög#2", "empty"]
    assert notes == ["the class empty has no image"]
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


def test_two_packs_are_equal_and_a_pack_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.cub(tmp_path / "in")
    pack("cub", source, tmp_path / "whole", "test", per_shard=1)
    pack("cub", source, tmp_path / "again", "test", per_shard=1)
    assert digests(tmp_path / "whole") == digests(tmp_path / "again")
    monkeypatch.setattr(pack_dataset, "_write_texts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack("cub", source, tmp_path / "cut", "test", per_shard=1)
    monkeypatch.undo()
    (tmp_path / "cut" / "test-00001.tar").write_bytes(b"torn")
    (tmp_path / "cut" / ".pack" / "test-00000.json").unlink()
    (tmp_path / "cut" / ".vitatlas-00.part").write_bytes(b"of a killed writer")
    pack("cub", source, tmp_path / "cut", "test", per_shard=1)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


@pytest.mark.soak
def test_kills_at_any_moment_change_no_byte(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for number in range(240):
        sources.write(source / f"class {number % 3}" / f"{number}.jpg", jpeg(number))
    pack("folder", source, tmp_path / "whole", per_shard=5)
    command = [sys.executable, "-m", "jobs.cli", "pack", "folder", str(source), "--out", str(out), "--per-shard", "5"]
    for number in range(15):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        wanted = min(len(list(out.glob("*.tar"))) + 1 + number % 3, 48)
        while process.poll() is None and len(list(out.glob("*.tar"))) < wanted:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, check=False).returncode == 0
    assert digests(out) == digests(tmp_path / "whole")


def test_cub_boxes_are_those_of_the_reference_and_masks_are_where_most_annotators_agree(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack("cub", sources.cub(tmp_path / "CUB_200_2011").parent, out, "test")
    first, second = "001_Black_footed_Albatross/A_0001_1", "002_Ani/B_0001_3"
    assert classes_of(out) == ["001.Black_footed_Albatross", "002.Ani"]
    assert sorted(labels_of(out).values()) == [0, 1]
    first, second = sorted(labels_of(out))
    assert boxes_of(out) == {first: [[6, 2, 26, 17]], second: [[1, 3, 39, 29]]}  # metadata/CUB: x + width, cut
    mask = read_truth(out / "truth").by_key[first].mask
    assert mask is not None
    expected = np.zeros((30, 40), bool)
    expected[5:15, 8:20] = True
    assert np.array_equal(mask, expected)
    with pytest.raises(UsageError, match=r"several splits; name one by --split: train, test"):
        pack("cub", tmp_path / "CUB_200_2011", tmp_path / "other")


@pytest.mark.parametrize("layout", ["flat", "kaggle"])
def test_validation_labels_are_those_of_the_devkits_own_order(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "out"
    pack("imagenet", sources.imagenet(tmp_path / "in", layout), out, "val")
    assert classes_of(out) == ["n01440764", "n02100735", "n02119789"]
    # The ground truth says 2, 1, 3 in the order of the kit: n01440764, n02119789, n02100735.
    assert labels_of(out) == {f"ILSVRC2012_val_0000000{n}": label for n, label in ((1, 0), (2, 2), (3, 1))}
    assert boxes_of(out) == {f"ILSVRC2012_val_0000000{n}": [[0, 3, 9 + n, 29]] for n in (1, 2, 3)}


@pytest.mark.parametrize("layout", ["folders", "tar"])
def test_train_images_come_from_folders_or_from_the_tars_of_tars(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "out"
    source = sources.imagenet(tmp_path / "in", layout)
    pack("imagenet", source, out, "train")
    assert labels_of(out) == {
        f"{name}/{name}_{i}": label for i, (name, label) in enumerate(zip(sources.DEVKIT_ORDER, (2, 0, 1), strict=True))
    }
    assert read_samples(out)["n01440764/n01440764_1"]["jpeg"] == jpeg(1, sources.SIZE)
    assert "class 1 is n02100735 here and n01443537 in imagenet-1k" in (describe_first_difference(out) or "")


def test_voc_has_several_labels_masks_and_ignored_objects(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack("voc", sources.voc(tmp_path / "in"), out, "val")
    packed = read_samples(out)
    assert json.loads(packed["2008_000001"]["json"])["classes"] == ["cat", "person"]
    assert packed["2008_000001"]["cls"] == b"7 14"
    assert packed["2008_000002"]["cls"] == b"11"  # the difficult sofa is no label
    truth = read_truth(out / "truth").by_key
    assert truth["2008_000001"].boxes.tolist() == [[0, 0, 9, 9], [10, 0, 39, 29]]
    assert truth["2008_000002"].boxes.tolist() == [[1, 2, 19, 29]]
    mask, ignore = truth["2008_000001"].mask, truth["2008_000001"].ignore
    assert mask is not None
    assert (mask.sum(), ignore.sum()) == (100 + 900, 20)


def test_coco_keeps_objects_and_numbers_categories_without_gaps(tmp_path: Path) -> None:
    out, source = tmp_path / "out", sources.coco(tmp_path / "in")
    pack("coco", source, out)
    assert classes_of(out) == ["car", "dog"]
    packed = read_samples(out)
    assert {key: json.loads(members["json"]).get("labels") for key, members in packed.items()} == {
        "0007": [0, 1],
        "0009": None,
    }
    assert packed["0007"]["cls"] == b"1 1"  # of two classes, both; 0 1 would have two readings
    assert left_out_of(out) == {"0011.jpg": "is not in instances_val2017.json"}
    direct = read_truth(source / "annotations/instances_val2017.json").by_key
    ours = read_truth(out / "truth").by_key
    for key in ("0007", "0009"):
        assert np.array_equal(ours[key].boxes, direct[key].boxes)
        assert np.array_equal(ours[key].ignore, direct[key].ignore)
    mask, expected = ours["0007"].mask, direct["0007"].mask
    assert mask is not None
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("masks", [False, True])
def test_lists_of_wsolevaluation_keep_their_truth_under_the_new_keys(tmp_path: Path, masks: bool) -> None:
    out = tmp_path / "out"
    lists = sources.wsol_lists(tmp_path / "in", masks)
    pack("lists", lists, out, "val")
    assert labels_of(out) == {"val/n1/a": 0, "val/n1/b_c": 1}
    assert left_out_of(out) == {"val/n2/gone.jpg": "does not exist"}
    truth = read_truth(out / "truth").by_key
    assert set(truth) == set(labels_of(out))
    if masks:
        assert truth["val/n1/b_c"].with_size(40, 30).boxes.size
    else:
        assert truth["val/n1/b_c"].boxes.tolist() == [[1, 2, 20, 25]]


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


def test_a_pack_into_its_own_source_is_refused(tmp_path: Path) -> None:
    source = sources.image_folder(tmp_path / "in")
    with pytest.raises(UsageError, match=r"is in the source, of which it would become a part"):
        pack("folder", source, source / "shards")
    assert not (source / "shards").exists()


def test_nothing_is_lost_without_a_word(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    sources.write(source / "a" / "same.jpg", jpeg(1))
    sources.write(source / "b" / "same.jpg", jpeg(2))
    sources.write(source / "a" / "x.y.jpg", jpeg(3))
    sources.write(source / "a" / "x_y.jpg", jpeg(4))
    sources.write(source / "a" / "new\nline \x1b[31m#1.jpg", jpeg(5))
    sources.write(source / "a" / "empty.jpg", b"")
    sources.write(source / "a" / "no image.png", b"hello, this is no image at all")
    sources.write(source / "a" / "notes.txt", "notes")
    sources.write(source / "loose.jpg", jpeg(6))
    (source / "a" / "dead.jpg").symlink_to("nowhere")
    (source / "b" / "link.jpg").symlink_to(source / "a" / "same.jpg")
    (source / "b" / "loop").symlink_to(source / "b")
    (source / "c").symlink_to(source / "a")
    _, samples = pack("folder", source, out)
    assert sorted(read_samples(out)) == sorted(
        [f"{name}/{key}" for name in "ac" for key in ("same", "x_y", "x_y-2", "new_line _[31m#1")]
        + ["b/same", "b/link"]
    )
    assert samples == 10
    reasons = left_out_of(out)
    assert {name: reasons[name].partition(":")[0] for name in reasons} == {
        "loose.jpg": "is in no folder of a class",
        **{f"{name}/empty.jpg": "is empty" for name in "ac"},
        **{f"{name}/no image.png": "cannot be read" for name in "ac"},
        **{f"{name}/notes.txt": "is not an image by its extension" for name in "ac"},
        **{f"{name}/dead.jpg": "is a link to a file that does not exist" for name in "ac"},
    }
    assert read_samples(out)["b/link"]["jpg"] == jpeg(1)


def test_another_pack_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    source, out = sources.image_folder(tmp_path / "in"), tmp_path / "out"
    pack("folder", source, out)
    before = digests(out)
    shutil.rmtree(source / "empty")
    with pytest.raises(UsageError, match=r"holds another pack: classes is 4, not 3; choose another --out"):
        pack("folder", source, out)
    assert digests(out) == before
    (tmp_path / "full").mkdir()
    sources.write(tmp_path / "full" / "mine.txt", "mine")
    with pytest.raises(UsageError, match=r"is not empty; choose another --out"):
        pack("folder", source, tmp_path / "full")


def test_boxes_outside_of_the_image_and_contradicting_sizes_are_listed(tmp_path: Path) -> None:
    source, out = sources.imagenet(tmp_path / "in", "flat"), tmp_path / "out"
    folder = source / "ILSVRC2012_bbox_val_v3" / "val"
    sources.write(
        folder / "ILSVRC2012_val_00000001.xml",
        sources.voc_xml([("n01440764", (50, 3, 60, 9)), ("n01440764", (1, 3, 6, 9))]),
    )
    sources.write(folder / "ILSVRC2012_val_00000002.xml", sources.voc_xml([("n01440764", (1, 3, 6, 9))], (999, 30)))
    sources.write(folder / "ILSVRC2012_val_00000099.xml", sources.voc_xml([("n01440764", (1, 3, 6, 9))]))
    pack("imagenet", source, out, "val")
    assert left_out_of(out) == {
        "ILSVRC2012_val_00000001.JPEG": "an object is left out of the truth: its box 50,3,11,7 is outside",
        "ILSVRC2012_val_00000002.JPEG": "its annotation says 999×30 pixels, but it has 40×30",
        "ILSVRC2012_val_00000099.xml": "has boxes of an image that is not there",
    }
    assert boxes_of(out)["ILSVRC2012_val_00000001"] == [[1, 3, 6, 9]]
