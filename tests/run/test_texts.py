"""Maps of the caption of each sample: what they explain, what they do not depend on, and the whole way to scores."""

import json
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from caption_world import CAPTIONS, CLASSES, TOWER, caption_shard, spec_of
from PIL import Image
from small_towers import embed_words, fake_tower, hugging_face_folder
from support import crash_after, in_one_process, same_atlas, same_bytes

from pipeline.audit.map_tables import write_map_tables
from pipeline.explain import Head, LeGrad, explain, prepare
from pipeline.explain.load import load_model
from pipeline.head.text_tower import TextTower
from pipeline.label import label
from pipeline.label.label_atlas import read_labels
from pipeline.run import INLINE, run
from pipeline.run.extend import extend_targets
from pipeline.run.plan import plan
from pipeline.run.recompute_maps import recompute
from pipeline.score import score
from pipeline.store import Atlas
from pipeline.store.verify import verify
from pipeline.truth import read_truth
from schemas.errors import UnsupportedMethod, UsageError
from schemas.policy import Policy, Threshold
from schemas.run import RunSpec
from schemas.text_tower import TextTowerSpec

GOOD = {key: str(CAPTIONS[key]).strip() for key in ("000000000", "000000001", "000000005")}
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tower of every spec is the fake one; its context is 8 words."""
    monkeypatch.setattr(TextTower, "load", lambda spec, device="cpu": fake_tower())


def atlas_of(spec: RunSpec, out: Path) -> Atlas:
    plan(spec, str(out))
    run(str(out), INLINE)
    return Atlas.open(str(out))


def test_each_map_explains_the_caption_of_its_image(tmp_path: Path) -> None:
    shard = caption_shard(tmp_path / "00000.tar")
    atlas = atlas_of(spec_of(tmp_path, shard, targets=("text", "predicted", "text:caption")), tmp_path / "atlas")
    samples = {row["key"]: row for row in atlas.samples().to_pylist()}
    assert {key: row["status"] for key, row in samples.items()} == dict.fromkeys(GOOD, "ok") | {
        "000000002": "missing_text", "000000003": "missing_text", "000000004": "bad_text",
    }  # fmt: skip
    assert samples["000000002"]["error"] == "no .txt member, from which --targets text takes the text"
    assert samples["000000003"]["error"] == "the .txt member has no text"
    assert "has 9 tokens, and the text tower reads 8" in samples["000000004"]["error"]
    assert verify(atlas).faults == []
    assert recompute(atlas, 6).faults == []
    head = Head.load(atlas.run.spec.model.head or "")
    for key, caption in GOOD.items():
        row = samples[key]
        assert row["target_texts"] == [caption, None, caption]
        assert row["target_classes"] == [None, row["prediction"], None]
        assert row["prediction"] < len(CLASSES)
        own = F.normalize(embed_words([caption]), dim=1)
        record = head.record.model_copy(update={"classes": (*CLASSES, caption), "prompts": ()})
        extended = Head(record, head.tensors | {"text": torch.cat([head.tensors["text"], own])})
        model = extended.attach(load_model(atlas.run.spec.model.model_copy(update={"head": None})).model)
        with Image.open(write_jpeg(shard, key, tmp_path)) as image:
            images = prepare(model, [image])
        expected = explain(model, images, torch.tensor([[len(CLASSES)]]), ["legrad", "gradcam"], keys=[key])
        for target in ("text", "text:caption"):
            for method, maps in expected.items():
                assert np.allclose(
                    atlas.raw(key, method, target), maps[0, 0], rtol=2e-3, atol=1e-3 * float(maps.abs().max())
                )
        with torch.no_grad():
            logit = float(model(images)[0, -1])
        similarity = logit / float(head.tensors["logit_scale"])
        assert row["target_similarities"] == [
            pytest.approx(similarity, abs=1e-5),
            None,
            pytest.approx(similarity, abs=1e-5),
        ]


def write_jpeg(shard: Path, key: str, folder: Path) -> Path:
    import tarfile

    with tarfile.open(shard) as archive:
        archive.extract(f"{key}.jpg", folder, filter="data")
    return folder / f"{key}.jpg"


@pytest.mark.soak
def test_predictions_are_added_to_maps_of_captions(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, caption_shard(tmp_path / "00000.tar"), targets=("text",))
    atlas_of(spec, tmp_path / "atlas")
    atlas = extend_targets(str(tmp_path / "atlas"), ["predicted", "class:1"], INLINE)
    both = spec.model_copy(update={"targets": ("text", "predicted", "class:1")})
    same_atlas(atlas, atlas_of(both, tmp_path / "both"))
    assert verify(atlas).faults == []


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_map_does_not_depend_on_the_other_captions(sigmoid: bool, tmp_path: Path) -> None:
    """A sigmoid compares no classes, so with it every method is defined."""
    others = CAPTIONS | {"000000001": "a photo", "000000002": "now there is one", "000000003": "and another"}
    methods = ("legrad", "gradcam", "cp_lrp", *(("reciprocam", "pm_zs", "rise:masks=6") if sigmoid else ()))
    shard = caption_shard(tmp_path / "a" / "00000.tar")
    spec = spec_of(tmp_path, shard, tower=fake_tower(sigmoid), methods=methods)
    first = atlas_of(spec, tmp_path / "first")
    changed = spec.model_copy(update={"shards": (str(caption_shard(tmp_path / "b" / "00000.tar", others)),)})
    second = atlas_of(changed, tmp_path / "second")
    for method in first.methods:
        for key in ("000000000", "000000005"):
            assert np.array_equal(first.raw(key, method, "text"), second.raw(key, method, "text"))
        assert not np.array_equal(first.raw("000000001", method, "text"), second.raw("000000001", method, "text"))


def test_captions_in_a_field_of_json(tmp_path: Path) -> None:
    shards = [
        caption_shard(tmp_path / "00000.tar"),
        caption_shard(tmp_path / "00001.tar", {"000010000": "a dog"}, caption=5),
    ]
    shards.append(caption_shard(tmp_path / "00002.tar", {"000020000": "a dog"}, caption="\ud800"))
    atlas = atlas_of(spec_of(tmp_path, *shards, targets=("text:caption",), methods=("legrad",)), tmp_path / "atlas")
    rows = {row["key"]: row for row in atlas.samples().to_pylist()}
    assert [row["target_texts"] for row in rows.values() if row["status"] == "ok"] == [[text] for text in GOOD.values()]
    assert rows["000000002"]["error"] == "the field caption of the .json member has no text"
    for key in ("000010000", "000020000"):
        assert rows[key]["status"] == "bad_text"
        assert rows[key]["error"] == "the .json member is not JSON with a text in the field caption"


def test_methods_that_compare_classes_are_refused(tmp_path: Path) -> None:
    shard = caption_shard(tmp_path / "00000.tar")
    for method in ("reciprocam", "rise", "tis", "vit_cx", "pm_zs"):
        with pytest.raises(UnsupportedMethod, match="reads softmax probabilities, and the target text has no other"):
            plan(spec_of(tmp_path, shard, methods=(method,)), str(tmp_path / "atlas"))
    default = plan(spec_of(tmp_path, shard, methods=()), str(tmp_path / "atlas"))
    assert {"legrad", "reciprocam_logit", "gradcam"} <= set(default.methods)
    assert not {"reciprocam", "pm_zs"} & set(default.methods)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": None}, "add --head FILE"),
        ({"text_tower": None}, "the target text needs a text tower"),
        ({"targets": ("predicted",)}, "a text tower is only for the target text"),
        ({"tower": "x"}, "was made by the text tower sha256:000000000000…, and /towers/fake is sha256:x"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    content = spec_of(tmp_path, caption_shard(tmp_path / "00000.tar")).model_dump()
    if "tower" in changes:
        other = fake_tower()
        other.spec = TOWER.model_copy(update={"sha256": "sha256:x"})
        monkeypatch.setattr(TextTower, "load", lambda spec, device="cpu": other)
    elif "head" in changes:  # without one the network is refused as an embedding tower
        monkeypatch.setattr("pipeline.explain.classifier_faults.is_projection", lambda *_: False)
        content["model"]["head"] = None
    else:
        content |= changes
    with pytest.raises(UsageError, match=message):
        plan(RunSpec.read(content, "a spec"), str(tmp_path / "atlas"))
    assert not (tmp_path / "atlas").exists()


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from small_towers import fake_tower
from pipeline.head.text_tower import TextTower
from pipeline.run import INLINE, run
from pipeline.store import ShardWriter

TextTower.load = lambda spec, device="cpu": fake_tower()
commit = ShardWriter.commit

def killed(self, *arguments):
    if self.shard_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(self, *arguments)

ShardWriter.commit = killed
run(sys.argv[1], INLINE)
"""


def test_the_whole_way_and_a_kill_changes_no_byte(vitatlas: Any, tmp_path: Path) -> None:
    """Captions in shards of img2dataset, ``run --targets text``, masks, scores."""
    others = {f"00001000{index}": caption for index, caption in enumerate(GOOD.values())}
    shards = [caption_shard(tmp_path / "00000.tar"), caption_shard(tmp_path / "00001.tar", others)]
    spec, out = spec_of(tmp_path, *shards), tmp_path / "atlas"
    given = [*shards, "--out", out, "--model", spec.model.name, "--pretrained", "--head", spec.model.head]
    given += ["--hugging-face", "/towers/fake", "--targets", "text", "--methods", "legrad,gradcam", "--batch-size", 4]
    assert vitatlas("plan", *given)[0] == 0
    killed = subprocess.run([sys.executable, "-c", KILLED, out, TESTS], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(Atlas.open(str(out)).commits) == ["00000"]
    code, _, err = vitatlas("run", *given, "--executor", "inline")
    assert code == 0, err
    same_bytes(Path(atlas_of(spec, tmp_path / "undisturbed").objects.url), out)

    atlas, policy = (
        Atlas.open(str(out)),
        Policy(name="p", methods=("legrad",), target="text", threshold=Threshold(kind="otsu")),
    )
    with in_one_process():
        with pytest.raises(UsageError, match=r"coco: files masks by class.*; take png, voc, parquet, sam"):
            label(atlas, policy, ["coco"], str(tmp_path / "labels"))
        summary = label(atlas, policy, ["png", "parquet"], str(tmp_path / "labels"))
        assert summary.counts == {"bad_text": 1, "missing_text": 2, "ok": 6}
        rows = read_labels(str(tmp_path / "labels")).to_pylist()
        assert {row["label"] for row in rows} == {None}
        assert sum(row["area"] is not None for row in rows) == 6
        boxes = "".join(f"{key},1,1,20,20\n" for key in [*GOOD, *others])
        (tmp_path / "boxes.csv").write_text(f"image_id,x0,y0,x1,y1\n{boxes}")
        table = score(atlas, read_truth(tmp_path / "boxes.csv"), "text", subset=True)
    row = next(row for row in table.to_pylist() if row["method"] == "legrad")
    assert (row["images"], row["target"], row["top1_loc"]) == (6, "text", None)
    assert 0 <= row["maxboxacc"] <= 100
    with pytest.raises(UsageError, match="target text explains another text in each image"):
        write_map_tables(atlas, str(tmp_path / "audit"), "text")
    image = atlas.show("000000000", target="text")
    assert image.width > 100
    assert LeGrad().name in atlas.methods
    assert pq.read_table(out / "samples" / "00000.parquet")["target_texts"][0].as_py() == [GOOD["000000000"]]
    assert json.loads((out / "run.json").read_bytes())["spec"]["text_tower"]["sha256"].startswith("sha256:")


def test_a_tower_of_transformers_embeds_the_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.undo()
    hugging_face_folder(tmp_path / "tower")
    tower = TextTowerSpec(library="hugging_face", name=str(tmp_path / "tower"))
    loaded = TextTower.load(tower)
    shard = caption_shard(
        tmp_path / "00000.tar", {"000000000": "a cat", "000000001": "a " * 40, "000000002": "the dog"}
    )
    spec = spec_of(tmp_path, shard, tower=loaded)
    atlas = atlas_of(spec.model_copy(update={"text_tower": tower}), tmp_path / "atlas")
    assert atlas.run.spec.text_tower == loaded.spec
    rows = atlas.samples().to_pylist()
    assert [row["status"] for row in rows] == ["ok", "bad_text", "ok"]
    assert verify(atlas).faults == []
    model = load_model(spec.model).model
    with torch.no_grad(), Image.open(write_jpeg(shard, "000000002", tmp_path)) as image:
        embedding = model.head.embed(
            model.forward_head(model.forward_features(prepare(model, [image])), pre_logits=True)
        )
    expected = float((embedding @ loaded.embed(["the dog"]).T)[0, 0])
    assert rows[2]["target_similarities"] == [pytest.approx(expected, abs=1e-5)]
    (tmp_path / "tower" / "config.json").write_text((tmp_path / "tower" / "config.json").read_text() + " ")
    again = shutil.copytree(tmp_path / "atlas", tmp_path / "again", ignore=shutil.ignore_patterns("commits"))
    with pytest.raises(UsageError, match="its files have changed"):
        run(str(again), INLINE)


def crash_and_resume(out: Path, spec: RunSpec, whole: Path, k: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    with crash_after(k, monkeypatch) as crash:
        plan(spec, str(out))
        run(str(out), INLINE)
    atlas_of(spec, out)
    same_bytes(whole, out)
    return crash.happened


@pytest.mark.soak
@pytest.mark.usefixtures("computed_once")
def test_a_crash_after_any_store_operation_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [caption_shard(tmp_path / "00000.tar"), caption_shard(tmp_path / "00001.tar", {"000010000": "a dog"})]
    spec, whole = spec_of(tmp_path, *shards, methods=("legrad",)), tmp_path / "whole"
    atlas_of(spec, whole)
    k = next(k for k in count(1) if not crash_and_resume(tmp_path / f"crash-{k}", spec, whole, k, monkeypatch))
    assert k > 20
