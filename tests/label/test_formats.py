"""What holds for every format."""

import io
import re
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from some_labels import CONTEXT, LABELS, NAMED, label_of, labels, shape, written

from jobs.label import label_command
from pipeline.label import label
from pipeline.label.formats import LABEL_FORMATS
from pipeline.label.formats.naming import file_name
from pipeline.store import Atlas, ObjectStore
from schemas.errors import UsageError
from schemas.policy import Policy, Threshold

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "add-an-exporter.md"
"""Its example is held to what holds for every format."""


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module and the line of the page, added to the package."""
    text = PAGE.read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ((name, entry),) = re.findall(r'```text\n"(\w+)": "([\w.]+)",\n```', text)
    module = ModuleType(f"pipeline.label.formats.{entry.partition('.')[0]}")
    exec(compile(code, PAGE.name, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(LABEL_FORMATS.classes, name, entry)


@pytest.fixture(params=[*LABEL_FORMATS, "csv"])
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "csv":
        request.getfixturevalue("example")
    return request.param


def test_a_module_and_a_line_add_a_format_to_the_command(example: None, atlas: Atlas, tmp_path: Path) -> None:
    (option,) = (parameter for parameter in label_command.params if parameter.name == "formats")
    completed = option.shell_complete(click.Context(label_command), "c")
    assert [item.value for item in completed] == ["coco", "cvat", "csv"]
    policy = Policy(name="otsu", methods=("legrad",), threshold=Threshold(kind="otsu"))
    label(atlas, policy, ["csv"], str(tmp_path))
    assert len((tmp_path / "csv" / "boxes.csv").read_text().splitlines()) > 48


def test_equal_labels_make_equal_bytes_at_any_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(LABEL_FORMATS[name])
    for clock in ("time.time", "time.monotonic"):
        monkeypatch.setattr(clock, lambda: 2_000_000_000.0)
    monkeypatch.setattr("some_labels.LABELS", labels())
    assert written(LABEL_FORMATS[name]) == first


def test_every_object_lies_in_a_folder_of_the_format(name: str, tmp_path) -> None:
    objects = ObjectStore(str(tmp_path / "out"))
    for path, data in written(LABEL_FORMATS[name]).items():
        assert path.startswith(f"{name}/")
        assert "evil" not in path
        objects.put(path, data)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_only_a_format_that_says_so_names_files_by_key(name: str) -> None:
    used = any("ring" in path for path in written(LABEL_FORMATS[name]))
    assert used == LABEL_FORMATS[name].names_files_by_key


def test_tars_without_a_mask_are_exported_too(name: str) -> None:
    nothing = [each for each in LABELS["first"] if each.heatmap is None]
    exporter = LABEL_FORMATS[name]
    objects = dict(exporter.export("bare", iter(nothing), CONTEXT)) | dict(exporter.export("none", iter(()), CONTEXT))
    merged = dict(exporter.merge(["bare", "none"], objects.__getitem__, CONTEXT))
    assert merged.keys() == dict(exporter.merge([], objects.__getitem__, CONTEXT)).keys() <= written(exporter).keys()


@pytest.mark.parametrize("key", ["a//b", "a/./b", "a\nb"])
def test_a_key_that_is_no_name_of_a_file_is_refused(name: str, key: str) -> None:
    one = label_of(0, key, shape((0, 0, 3, 3)))
    if not LABEL_FORMATS[name].names_files_by_key and name != "cvat":
        assert list(LABEL_FORMATS[name].export("t", iter([one]), CONTEXT))
        return
    with pytest.raises(UsageError, match="cannot be the name of a file in this format; rename it, or take png"):
        list(LABEL_FORMATS[name].export("t", iter([one]), CONTEXT))


@pytest.mark.parametrize(
    ("format_name", "path"), [("coco", "coco/instances.json"), ("fiftyone", "fiftyone/samples.json")]
)
def test_a_merge_holds_bytes_not_objects(format_name: str, path: str) -> None:
    exporter = LABEL_FORMATS[format_name]
    rng = np.random.default_rng(0)
    parts = {}
    for shard in range(40):
        some = [label_of(64 * shard + row, f"{shard}/{row}", rng.random((20, 20)) > 0.5) for row in range(20)]
        parts |= dict(exporter.export(f"t{shard}", iter(some), CONTEXT))
    tracemalloc.start()
    merged = dict(exporter.merge([f"t{shard}" for shard in range(40)], parts.__getitem__, CONTEXT))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(merged[path])


@pytest.mark.parametrize(("class_id", "number"), [(0, 1), (998, 999), (999, 1001), (20_000, 20_002)])
def test_no_class_of_imagenet_s_is_coded_as_ignored(class_id: int, number: int) -> None:
    label = label_of(1, "b", shape((0, 0, 3, 3)), class_id=class_id)
    ((_, data),) = LABEL_FORMATS["imagenet_s"].export("t", iter([label]), CONTEXT)
    rgb = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert set(np.unique(rgb[..., 0] + 256 * rgb[..., 1])) == {0, number}


def test_classes_that_share_a_name_are_told_apart() -> None:
    some = [label_of(0, "a", shape((0, 0, 3, 3)), class_id=1), label_of(1, "b", shape((0, 0, 3, 3)), class_id=2)]
    context = replace(NAMED, class_names=("tench", "crane", "crane"))
    (data,) = dict(LABEL_FORMATS["coco"].export("t", iter(some), context)).values()
    assert b'"crane (1)"' in data
    assert b'"crane (2)"' in data


def test_labels_of_the_tests_are_what_they_say() -> None:
    for each in (each for part in LABELS.values() for each in part if each.mask_rle is not None):
        assert not (each.mask & each.ignore).any()
        assert each.status == ("ok" if each.boxes else "empty")
        assert rle.area(each.mask_rle) == each.mask.sum() == round(each.area * each.mask.size)


LONG = ["a" * 300, "a" * 299 + "b", "ü" * 120, "d/" * 500 + "e", f"{'a' * 150}~{'0' * 32}"]
"""Keys that are too long for a file, in characters, in bytes or in all, and one that looks like a shortened one."""


def test_names_that_are_too_long_are_shortened_to_different_ones(tmp_path: Path) -> None:
    names = [file_name(key) for key in LONG]
    names += [file_name(name) for name in names]  # a stranger may choose these
    assert len(set(names)) == len(names)
    for name in names:
        assert len(f"{name}.mask.png".encode()) < 230
        (tmp_path / f"{name}.mask.png").touch()
    assert file_name("a" * 300 + ".jpeg").endswith(".jpeg")
    assert [file_name(key) for key in ("a", "d/a b", "a" * 200)] == ["a", "d/a b", "a" * 200]


def test_every_format_writes_the_labels_of_long_keys(tmp_path: Path) -> None:
    given = [label_of(row, key, shape((2, 2, 9, 9))) for row, key in enumerate(LONG)]
    for label_format in LABEL_FORMATS.values():
        paths = [path for path, _ in label_format.export("s", iter(given), CONTEXT)]
        assert len(set(paths)) == len(paths)
        for path in paths:
            ObjectStore(str(tmp_path)).put(path, b"")
