"""The files of ViRelAy have the keys that its code reads, and in them is what the atlas has."""

import json
import shutil
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from audit.exports.conftest import tables
from support import samples, write_tar

from pipeline.audit.exports import virelay
from pipeline.audit.exports.export_audit import export_audit
from pipeline.audit.exports.virelay import label_map
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.run import ModelSpec, RunSpec

METHODS = ("attention", "legrad", "reciprocam_single", "center")


def stacked(atlas: Atlas, method: str, target: str = "label") -> np.ndarray:
    shards = [atlas.shard(name) for name in atlas.commits]
    return np.concatenate([shard.maps(method, target)[shard.has_maps] for shard in shards])


def test_pixels_and_labels_are_those_of_the_samples(atlas: Atlas, audit: Path) -> None:
    known = atlas.samples()
    with h5py.File(audit / "virelay" / "input.h5") as file:
        assert set(file) == {"data", "label", "row", "key"}
        assert file["data"].dtype == np.uint8
        assert file["data"].shape == (48, 3, *atlas.run.model.input_size)
        assert len(np.unique(file["data"][:])) > 200
        assert file["label"][:].tolist() == known["label"].to_pylist()
        assert file["row"][:].tolist() == known["row"].to_pylist()
        assert [key.decode() for key in file["key"]] == known["key"].to_pylist()


@pytest.mark.parametrize("method", METHODS)
def test_channels_of_an_attribution_add_to_the_map_exactly(atlas: Atlas, audit: Path, method: str) -> None:
    known = atlas.samples(["label", "prediction", "probability", "label_probability"])
    with h5py.File(audit / "virelay" / f"{method}.attribution.h5") as file:
        assert set(file) == {"attribution", "label", "prediction"}
        assert file["attribution"].shape == (48, 3, *atlas.run.model.grid)
        assert file["attribution"].dtype == np.float16
        assert np.array_equal(file["attribution"][:].astype(np.float32).sum(1), stacked(atlas, method))
        prediction = file["prediction"][:]
    assert prediction.dtype == np.float32
    assert prediction.shape == (48, atlas.run.model.classes)
    assert prediction.argmax(1).tolist() == known["prediction"].to_pylist()
    assert prediction.max(1).tolist() == known["probability"].to_pylist()
    assert prediction[range(48), known["label"]].tolist() == known["label_probability"].to_pylist()
    assert (np.count_nonzero(prediction, axis=1) <= 2).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_analysis_is_what_members_and_shortcuts_say(atlas: Atlas, audit: Path, method: str) -> None:
    members = pq.read_table(audit / "members.parquet").filter(pc.field("method") == method)
    classes = pq.read_table(audit / "shortcuts.parquet").filter(pc.field("method") == method).to_pylist()
    expected = {row["row"]: (row["cluster"], row["embedding"]) for row in members.to_pylist()}
    rows, label = atlas.samples(["row"])["row"].to_numpy(), atlas.samples(["label"])["label"].to_numpy()
    with h5py.File(audit / "virelay" / f"{method}.analysis.h5") as file:
        assert set(file) == {str(row["class"]) for row in classes}
        for row in classes:
            group = file[str(row["class"])]
            places, embedding = group["index"][:], group["embedding/spectral"]
            assert (set(group), set(group["embedding"]), set(group["cluster"])) == (
                {"index", "embedding", "cluster"},
                {"spectral"},
                {"kmeans"},
            )
            assert places.dtype == np.uint32
            assert embedding.dtype == np.float32
            assert (label[places] == row["class"]).all()
            assert group["cluster/kmeans"].attrs["k"] == row["clusters"]
            shared = min(embedding.shape[1], len(row["eigenvalues"]))
            assert np.allclose(embedding.attrs["eigenvalue"][:shared], row["eigenvalues"][:shared])
            assert embedding.attrs["eigenvalue"].shape == embedding.shape[1:]
            assert embedding.shape[1] >= 2
            for place, cluster, coordinates in zip(places, group["cluster/kmeans"], embedding, strict=True):
                known = expected.pop(rows[place])
                assert known[0] == cluster
                assert coordinates[: len(known[1])].tolist() == known[1]
                assert not coordinates[len(known[1]) :].any()
    assert not expected


def test_no_file_holds_the_time_at_which_it_was_made(audit: Path) -> None:
    timed: list[str] = []

    def look(name: str, each: h5py.Dataset | h5py.Group) -> None:
        if h5py.h5o.get_info(each.id).ctime:
            timed.append(f"{path.name}: {name}")

    for path in (audit / "virelay").rglob("*.h5"):
        with h5py.File(path) as file:
            file.visititems(look)
    assert not timed


def test_there_is_a_project_for_each_method_that_says_anything(audit: Path) -> None:
    folder = audit / "virelay"
    assert {path.stem for path in folder.glob("*.yaml")} == set(METHODS)  # not uniform
    for method in METHODS:
        project = yaml.safe_load((folder / f"{method}.yaml").read_text())["project"]
        assert project["attributions"]["attribution_method"] == method
        assert project["attributions"]["attribution_strategy"] == "true_label"
        sources = [*project["attributions"]["sources"], *project["analyses"][0]["sources"]]
        for name in (project["label_map"], project["dataset"]["path"], *sources):
            assert (folder / name).is_file()


def test_without_pictures_all_is_grey_and_takes_no_room(atlas: Atlas, audit: Path, tmp_path: Path) -> None:
    tables(atlas.objects.url, tmp_path)
    (atlas_shards := Path(atlas.run.shards[0].url).parent).rename(away := tmp_path / "away")
    try:
        export_audit(atlas, str(tmp_path), "virelay", methods=["legrad"], pixels=False)
    finally:
        away.rename(atlas_shards)
    path = tmp_path / "virelay" / "input.h5"
    assert path.stat().st_size < 30_000
    with h5py.File(path) as file:
        assert file["data"].shape == (48, 3, *atlas.run.model.input_size)
        assert (file["data"][:] == 128).all()
    with h5py.File(next((tmp_path / "virelay" / "parts").iterdir())) as file:
        assert set(file) == {"attribution", "prediction"}


def test_samples_without_maps_are_left_out_and_those_without_a_label_have_one(
    checkpoint: ModelSpec, tmp_path: Path
) -> None:
    members = [each for each in samples(9) if each[0] != "s0003.cls"]
    members = [(name, b"no picture") if name == "s0001.jpg" else (name, data) for name, data in members]
    members += [("s9999.jpg", members[0][1]), ("s9999.cls", b"123456")]
    write_tar(tmp_path / "part.tar", members)
    write_tar(tmp_path / "bad.tar", [("x.jpg", b"no picture"), ("x.cls", b"0")])
    url, shards = str(tmp_path / "atlas"), (str(tmp_path / "bad.tar"), str(tmp_path / "part.tar"))
    plan(RunSpec(shards=shards, model=checkpoint, methods=("legrad", "uniform"), targets=("predicted",)), url)
    run(url, INLINE)
    tables(url, tmp_path / "out", "predicted")
    names = [f"<b>{index}/../\\\u2028" for index in range(10)]
    export_audit(Atlas.open(url), str(tmp_path / "out"), "virelay", "predicted", classes=names)
    folder = tmp_path / "out" / "virelay"
    labels = {each["index"]: each for each in json.loads((folder / "labels.json").read_text())}
    assert [labels[index]["name"] for index in range(10)] == names
    assert set(labels) == set(range(10)) | {-1}
    with h5py.File(folder / "input.h5") as file:
        assert [key.decode() for key in file["key"]] == ["s0000", *(f"s000{place}" for place in range(2, 9)), "s9999"]
        assert file["label"][:].tolist() == [0, 2, -1, 4, 5, 6, 7, 8, -1]
        assert np.array_equal(file["data"][0], file["data"][8])  # the same picture
        assert not np.array_equal(file["data"][0], file["data"][1])
    predicted = Counter(each for each in Atlas.open(url).samples()["prediction"].to_pylist() if each is not None)
    with h5py.File(folder / "legrad.analysis.h5") as file:
        assert {name: len(group["index"]) for name, group in file.items()} == {
            str(index): count for index, count in predicted.items()
        }
    with h5py.File(folder / "legrad.attribution.h5") as file:
        assert np.array_equal(
            file["attribution"][:, 0].astype(np.float32), stacked(Atlas.open(url), "legrad", "predicted")
        )


@pytest.mark.parametrize(
    ("classes", "ids", "names"),
    [
        ((), ["0", "1"], ["0", "1"]),
        (("cat", "dog"), ["0", "1"], ["cat", "dog"]),
        (("n02123045 tabby, tabby cat", "n02085620"), ["n02123045", "n02085620"], ["tabby, tabby cat", "n02085620"]),
        (("n02123045 a", "n02123045 b"), ["0", "1"], ["n02123045 a", "n02123045 b"]),
        (("n02123045/../a", "n02085620"), ["0", "1"], ["n02123045/../a", "n02085620"]),
    ],
)
def test_groups_are_called_by_wordnet_ids_or_else_by_numbers(
    classes: tuple[str, ...], ids: list[str], names: list[str]
) -> None:
    found = label_map(2, classes)
    assert [each["word_net_id"] for each in found] == ids
    assert [each["name"] for each in found] == names
    assert [each["index"] for each in found] == [0, 1]


def test_numbers_of_classes_have_one_length_so_that_they_sort() -> None:
    assert [each["word_net_id"] for each in label_map(101)][::50] == ["000", "050", "100"]


def test_without_h5py_the_extra_is_named(atlas: Atlas, audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virelay, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"requires h5py; install it with: pip install 'vit-atlas\[virelay\]'"):
        export_audit(atlas, str(audit), "virelay")


def test_an_audit_that_lacks_something_or_is_of_other_maps_is_refused(
    atlas: Atlas, audit: Path, tmp_path: Path
) -> None:
    url = atlas.objects.url
    with pytest.raises(UsageError, match=r"is no audit of the attention maps of predicted; audit them first"):
        export_audit(Atlas.open(url), str(audit), "virelay", "predicted")
    for name in ("about.json", "members.parquet", "shortcuts.parquet"):
        with pytest.raises(UsageError, match=rf"has no {name}; make the audit first"):
            export_audit(Atlas.open(url), str(tmp_path), "virelay")
        shutil.copy(audit / name, tmp_path)
    made = json.loads((audit / "about.json").read_text())
    (tmp_path / "about.json").write_text(json.dumps(made | {"methods": ["attention"]}))
    with pytest.raises(UsageError, match=r"is no audit of the legrad maps of label"):
        export_audit(Atlas.open(url), str(tmp_path), "virelay", methods=["attention", "legrad"])
    assert not (tmp_path / "virelay").exists()
