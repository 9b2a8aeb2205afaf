"""The files of a report say what the tables and the atlas say, and nothing in them can be taken for a script."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_world import HOSTILE, METHODS, NAMES, Reported

from pipeline.audit.report import write_report
from pipeline.audit.report.classes import find_suspicious_classes, iter_class_data, mean_map
from pipeline.audit.report.js_encoding import to_uint8
from pipeline.audit.report.load_tables import read_audit
from pipeline.audit.report.score_view import describe_score
from pipeline.audit.spray import l1_normalize
from pipeline.demo.scenes import SHORTCUT_CLASS
from pipeline.read import PreprocessConfig, decode_image
from pipeline.read.shard_reader import read_samples
from pipeline.store import Atlas
from pipeline.utils.json_script import to_script
from schemas.audit_tables import MAP_STATISTICS, SHORTCUTS
from schemas.errors import CorruptShardError, UsageError
from schemas.metrics import OWN_WEIGHTS
from schemas.scores import is_control

KINDS = {"row": "<f8", "label": "<i4", "prediction": "<i4", "probability": "<f4", "agreement": "<f4", "chunk": "<u4"}


def told(path: Path) -> list:
    """Arguments of the call that a script of data is."""
    call = re.fullmatch(r"atlas\.\w+\((.*)\);\n", path.read_text())
    return json.loads(f"[{call[1]}]")


def numbers(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def index_of(folder: Path) -> dict:
    (index,) = told(folder / "data" / "index.js")
    return index | {name: numbers(index[name], kind) for name, kind in KINDS.items()}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("target", ["label", "predicted"])
def test_shards_hold_the_very_maps_of_the_atlas_for_every_target(reported: Reported, target: str) -> None:
    atlas, index = reported.atlas, index_of(reported.folder)
    kind, cells = atlas.run.spec.targets.index(target), int(np.prod(atlas.run.model.grid))
    places = numbers(index["place"], "u1")
    samples = atlas.samples()
    keys = dict(zip(samples["row"].to_pylist(), samples["key"].to_pylist(), strict=True))
    maps = {
        method: np.concatenate([atlas.shard(shard_name).maps(method, target) for shard_name in atlas.commits])
        for method in METHODS
    }
    flags = {
        method: np.concatenate([atlas.shard(shard_name).flags(method, target) for shard_name in atlas.commits])
        for method in METHODS
    }
    at = {row: place for place, row in enumerate(keys)}
    shards = {number: told(reported.folder / "data" / "chunks" / f"{number}.js") for number in set(index["chunk"])}
    for image, (row, shard, place) in enumerate(zip(index["row"], index["chunk"], places, strict=True)):
        number, data = shards[shard]
        assert (number, keys[row]) == (shard, index["keys"][image])
        block = data["blocks"][place][kind]
        found = numbers(data["maps"], "u1").reshape(-1, len(METHODS), cells)[block]
        said = numbers(data["flags"], "u1").reshape(-1, len(METHODS))[block]
        for which, method in enumerate(METHODS):
            assert np.array_equal(found[which], to_uint8(maps[method][at[row]]).ravel())
            assert said[which] == flags[method][at[row]]


def test_the_index_says_what_the_tables_say(reported: Reported) -> None:
    index = index_of(reported.folder)
    samples = reported.atlas.samples().to_pandas()
    good = samples[samples.status == "ok"]
    assert len(good) == len(samples) - 1 == index["count"]  # one picture is broken
    for name in ("row", "label", "prediction", "probability"):
        assert np.array_equal(index[name], good[name].to_numpy(index[name].dtype)), name
    assert index["keys"] == good.key.tolist()
    pairs = pq.read_table(reported.audit / "pairs").to_pandas()
    own = pairs[~pairs["first"].isin(["center", "uniform"]) & ~pairs["second"].isin(["center", "uniform"])]
    expected = own.groupby("row").spearman.mean()[index["row"]]
    assert np.allclose(index["agreement"], expected, atol=1e-6)


def test_numbers_of_images_and_methods_are_those_of_the_audit(reported: Reported) -> None:
    index = index_of(reported.folder)
    images = pq.read_table(reported.audit / "images").to_pandas().set_index(["row", "method"])
    places = numbers(index["place"], "u1")
    for image in (0, 10, index["count"] - 1):
        _, data = told(reported.folder / "data" / "chunks" / f"{index['chunk'][image]}.js")
        found = numbers(data["statistics"], "<f4").reshape(-1, len(METHODS), len(MAP_STATISTICS))[places[image]]
        for which, method in enumerate(METHODS):
            expected = images.loc[(index["row"][image], method), list(MAP_STATISTICS)].to_numpy(float)
            assert np.allclose(found[which], expected, atol=1e-6, equal_nan=True)
    number, column = told(reported.folder / "data" / "methods" / "2.js")
    expected = images.xs("legrad", level="method").entropy[index["row"]]
    assert number == 2
    assert np.allclose(numbers(column["entropy"], "<f4"), expected, atol=1e-6)


def test_a_thumbnail_is_what_the_network_saw(reported: Reported) -> None:
    run, index = reported.atlas.run, index_of(reported.folder)
    _, data = told(reported.folder / "data" / "chunks" / "0.js")
    image = next(read_samples(run.shards[0], run.slot)).image()
    seen = decode_image(image.data, PreprocessConfig.for_model(run.model, run.spec.geometry)).pixels.transpose(1, 2, 0)
    small = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["thumbnails"][0]))))
    assert index["keys"][0] == HOSTILE[0]
    assert small.shape == seen.shape  # 96 pixels are less than a thumbnail may have
    assert np.abs(small.astype(int) - seen).mean() < 8


def test_without_pictures_no_picture_is_in_it_and_no_tar_is_read(copy: Reported) -> None:
    run = copy.atlas.run
    shards = tuple(replace(shard, url="/nowhere.tar") for shard in run.shards)
    elsewhere = Atlas(copy.atlas.objects, run.model_copy(update={"shards": shards}))
    write_report(elsewhere, str(copy.audit), thumbnails=False)
    assert all(told(path)[1]["thumbnails"] is None for path in (copy.folder / "data" / "chunks").iterdir())
    assert not any(b"/9j/" in data for data in content(copy.folder).values())  # how a JPEG begins
    with pytest.raises(CorruptShardError):
        write_report(elsewhere, str(copy.audit))


def test_the_same_again_is_the_same_and_of_fewer_images_nothing_stays(copy: Reported) -> None:
    url, before = copy.atlas.objects.url, content(copy.folder)
    write_report(Atlas.open(url), str(copy.audit), names=NAMES)
    assert content(copy.folder) == before
    (copy.folder / "data" / "classes" / "99.js").write_text("of another report")
    write_report(Atlas.open(url), str(copy.audit), names=NAMES, images=20, seed=3)
    index, names = index_of(copy.folder), set(content(copy.folder))
    assert index["count"] == 20
    assert np.all(np.diff(index["row"]) > 0)
    assert {name for name in names if "/chunks/" in name} == {f"data/chunks/{each}.js" for each in set(index["chunk"])}
    assert "data/classes/99.js" not in names


class Tags(HTMLParser):
    """Elements and attributes of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_from_data_are_text_and_nothing_runs_but_the_scripts_of_the_report(reported: Reported) -> None:
    page = Tags()
    page.feed((reported.folder / "index.html").read_text())
    for name in (NAMES[0], NAMES[SHORTCUT_CLASS], HOSTILE[0], "<b>truth</b>"):
        assert name in page.text
    assert {attributes.get("src", "")[:7] for tag, attributes in page.tags if tag == "script"} == {"assets/"}
    assert not {"img", "b"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    for name, data in content(reported.folder).items():
        assert b"http:" not in data, name  # nothing is asked of any network
        assert b"https:" not in data, name
        assert not name.startswith("data/") or b"<" not in data, name


def test_what_columns_mean_is_text_that_needs_no_pointer(reported: Reported) -> None:
    page = Tags()
    page.feed((reported.folder / "index.html").read_text())
    assert not [tag for tag, attributes in page.tags if "title" in attributes]
    for name in ("PxAP", "deletion", "mprt", *MAP_STATISTICS):
        assert describe_score(name) in page.text
    for path in (reported.folder / "assets").glob("*.js"):
        assert "title:" not in path.read_text(), path.name


def test_what_must_be_known_to_read_a_figure_stands_under_its_table(reported: Reported) -> None:
    page = (reported.folder / "index.html").read_text()
    assert f'<p class="note">† rollout: {OWN_WEIGHTS}.</p>' in page
    assert page.count("0.100†") == 1


def test_a_control_raises_no_alarm_on_the_page_of_a_class(reported: Reported) -> None:
    audited = read_audit(reported.atlas, str(reported.audit), "label")
    rows = [row | {"alarm": True} for row in audited.shortcuts.to_pylist()]
    loud = replace(audited, shortcuts=pa.Table.from_pylist(rows, SHORTCUTS))
    signs = [
        (METHODS[int(place)], told["shortcut"]["alarm"])
        for _, about in iter_class_data(loud, METHODS, reported.atlas.run.model.grid)
        for place, told in about["methods"].items()
        if "shortcut" in told
    ]
    assert {method for method, _ in signs} == {"attention", "rollout", "legrad", "center"}
    assert all(alarm == (not is_control(method)) for method, alarm in signs)


def test_what_became_of_the_samples_is_summed_over_the_tars(reported: Reported) -> None:
    page = (reported.folder / "index.html").read_text()
    assert re.search(r"<td>samples</td><td>–</td><td>ok</td><td>–</td><td>259</td>", page)
    assert "<td>undecodable</td><td>&lt;img src=x onerror=alert(1)&gt;</td><td>1</td>" in page


def test_it_says_in_a_sentence_whether_maps_came_out_the_same_again(reported: Reported) -> None:
    page = (reported.folder / "index.html").read_text()
    assert "9 of 10 sampled images could be recomputed" in page
    assert "In batches of 32, as in the run, all maps are bitwise equal" in page
    assert "in batches of 1 the largest difference of a value, in [0, 1], is 0.0005." in page
    assert 'rollout</span></th><td class="number">100.0 %</td><td class="number">50.0 %</td>' in re.sub(r"\n", "", page)


def test_without_pictures_nothing_is_called_an_image_that_is_a_map(copy: Reported) -> None:
    write_report(copy.atlas, str(copy.audit), thumbnails=False)
    page = (copy.folder / "index.html").read_text()
    assert "Open the central map" in page
    assert "Open the central image" not in page


def test_a_script_of_data_is_plain_whatever_it_holds() -> None:
    value = {"key": "</script><!--\u2028é", "none": float("nan"), "list": [float("inf"), 1.5]}
    data = to_script("index", value)
    assert data.isascii()
    assert b"<" not in data
    assert json.loads(data[len("atlas.index(") : -3]) == value | {"none": None, "list": [None, 1.5]}


def test_the_mean_of_clusters_is_the_mean_of_the_maps(reported: Reported) -> None:
    atlas, audited = reported.atlas, read_audit(reported.atlas, str(reported.audit), "label")
    clusters = [each for each in audited.clusters.to_pylist() if (each["method"], each["class"]) == ("legrad", 3)]
    maps = [atlas.shard(name) for name in atlas.commits]
    own = [shard.maps("legrad")[shard.samples["label"].to_numpy(zero_copy_only=False) == 3] for shard in maps]
    expected = l1_normalize(np.concatenate(own)).mean(0)
    assert np.allclose(mean_map(clusters, atlas.run.model.grid), expected, atol=1e-6)


def test_the_class_with_the_shortcut_is_the_first_suspect(reported: Reported) -> None:
    found = find_suspicious_classes(read_audit(reported.atlas, str(reported.audit), "label"))
    assert found[0].class_id == SHORTCUT_CLASS
    assert found[0].alarms > 0
    assert all(sign.row["alarm"] for sign in found[0].evidence)
    assert [each.alarms for each in found] == sorted((each.alarms for each in found), reverse=True)


def test_where_no_class_raises_an_alarm_none_is_shown_and_it_says_so(copy: Reported) -> None:
    table = pq.read_table(copy.audit / "shortcuts.parquet")
    calm = table.set_column(table.schema.get_field_index("alarm"), table.schema.field("alarm"), [[False] * len(table)])
    pq.write_table(calm, copy.audit / "shortcuts.parquet")
    write_report(copy.atlas, str(copy.audit), thumbnails=False)
    page = (copy.folder / "index.html").read_text()
    assert "No class raises an alarm." in page
    assert "suspect panel" not in page
    assert "at once. Not detected" in " ".join(page.split())


def test_what_cannot_be_reported_is_refused(copy: Reported, tmp_path: Path) -> None:
    url = copy.atlas.objects.url
    with pytest.raises(UsageError, match=r"is no audit \(it has no about\.json\)"):
        write_report(Atlas.open(url), str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="is an audit of label maps"):
        write_report(Atlas.open(url), str(copy.audit), "predicted")
    with pytest.raises(UsageError, match="has 10 classes, not the 1 that are named"):
        write_report(Atlas.open(url), str(copy.audit), names=["cat"])
    (copy.audit / "shortcuts.parquet").unlink()
    with pytest.raises(UsageError, match=r"has no shortcuts\.parquet"):
        write_report(Atlas.open(url), str(copy.audit))


def test_it_stands_in_a_store_of_any_kind(copy: Reported) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(copy.audit), "/published/audit", recursive=True)
    shutil.rmtree(copy.folder)
    assert write_report(copy.atlas, "memory://published/audit", names=NAMES).endswith("audit/report/index.html")
    memory.get("/published/audit/report", str(copy.folder), recursive=True)
    assert index_of(copy.folder)["count"] == 259
    memory.rm("/published", recursive=True)


def test_an_atlas_of_one_method_has_a_report_without_agreement(reported: Reported, tmp_path: Path) -> None:
    from pipeline.audit.audit_atlas import AuditOptions, audit_atlas

    url, out = reported.atlas.objects.url, str(tmp_path / "one")
    audit_atlas(
        Atlas.open(url), out, "predicted", ["legrad"], audit_options=AuditOptions(0, 0, 0, include_images=False)
    )
    write_report(Atlas.open(url), out, "predicted", images=9)
    assert "Agreement of methods" not in (Path(out) / "report" / "index.html").read_text()
    assert Atlas.open(url).methods == METHODS


def test_verdicts_of_the_ranking_are_in_the_page_as_text(reported: Reported) -> None:
    page = (reported.folder / "index.html").read_text("utf-8")
    part = page.partition("Methods to trust")[2].partition("<h2")[0]
    assert part.count("<tr") == 1 + len(METHODS)
    assert "order by localization in &lt;b&gt;truth&lt;/b&gt;" in part
    assert "is valid (the network recognises &lt;img src=x onerror=alert(1)&gt;)" in part
    assert "60.0 <small>50.0…70.0</small>" in part
    assert "<script>" not in part


def test_norms_of_tokens_stand_beside_the_network(reported: Reported) -> None:
    assert "outliers among patch tokens after block" in (reported.folder / "index.html").read_text()
