"""Head files in runs: the whole way from shards to scores on image–text towers, and what is recorded and refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_towers import OPEN, Tower
from safetensors.torch import load_file, save_file
from support import in_one_process, soak_after

from pipeline.explain import Head, explain, prepare
from pipeline.explain.head import backbone_hash
from pipeline.explain.load import create_model, create_untrained, load_model
from pipeline.store import Atlas
from schemas.errors import UnsupportedModel, UsageError
from schemas.run import ModelSpec
from schemas.run_record import RunRecord

METHODS = "legrad,legrad:score=cosine,attention,generic_attention,reciprocam,pm_zs,center"
CASES = {"clip": ("zero_shot", "softmax", 4), "siglip": ("zero_shot", "sigmoid", 3), "dinov2": ("linear", "softmax", 6)}


@pytest.fixture(params=soak_after(2, CASES))
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tower(case: str, tmp_path: Path) -> Iterator[Tower]:
    with in_one_process():
        yield Tower(case, tmp_path)


def test_the_whole_way(vitatlas: Any, case: str, tower: Tower, tmp_path: Path) -> None:
    kind, activation, count = CASES[case]
    out = tmp_path / "atlas"
    given = [tower.shard, "--out", out, *tower.model, "--methods", METHODS, "--batch-size", 6]
    code, text, err = vitatlas("plan", *given)
    assert code == 0, err
    line = f"head     {kind}, {activation} of {count} classes: a photo of a cat, a photo of a dog, a photo of a owl"
    assert line in text
    assert vitatlas("run", out, "--executor", "inline")[0] == 0
    code, text, _ = vitatlas("status", out)
    assert (code, line in text) == (0, True)
    code, text, _ = vitatlas("verify", out, "--recompute", 6)
    assert (code, "84 maps were recomputed, 84 of them bit-identical" in text) == (0, True)

    atlas = Atlas.open(str(out))
    record = atlas.run.model.head
    assert record is not None
    assert (record.kind, record.activation, record.classes) == (kind, activation, tower.names)
    assert "a photo of a cat" in atlas._repr_html_()
    backbone = create_model(f"local-dir:{tower.folder}").eval()
    backbone.load_state_dict(load_file(tower.folder / "model.safetensors"))
    head = Head.load(tower.head)
    assert (record.hash, record.backbone) == (head.digest, backbone_hash(backbone))
    model = head.attach(backbone)
    images = prepare(model, tower.images.values())
    with torch.no_grad():
        logits = model(images)
    targets = torch.stack([torch.arange(6) % 3, logits.argmax(1)], 1)
    maps = explain(model, images, targets, METHODS.split(","), keys=list(tower.images))
    for method, expected in maps.items():
        for place, key in enumerate(tower.images):
            for column, target in enumerate(("label", "predicted")):
                low, high = expected[place, column].min(), expected[place, column].max()
                stored = torch.from_numpy(atlas.raw(key, method, target))
                assert (stored - expected[place, column]).abs().max() <= 5e-4 * (high - low) + 1e-7 * high.abs()
    chances = logits.double().sigmoid() if activation == "sigmoid" else logits.double().softmax(1)
    samples = atlas.samples(["prediction", "probability", "label_probability", "label_rank"])
    assert samples["prediction"].to_pylist() == logits.argmax(1).tolist()
    assert samples["probability"].to_pylist() == pytest.approx(chances.amax(1).tolist(), rel=1e-5)
    assert samples["label_probability"].to_pylist() == pytest.approx(
        [float(chances[place, place % 3]) for place in range(6)], rel=1e-5
    )

    (tmp_path / "policy.yaml").write_text("{name: p, methods: [legrad], threshold: {kind: otsu}}")
    code, _, err = vitatlas("label", out, "--policy", tmp_path / "policy.yaml", "--format", "coco")
    assert code == 0, err
    names = {
        entry["name"]
        for entry in json.loads((out / "labels" / "p" / "coco" / "instances.json").read_text())["categories"]
    }
    assert names == set(tower.names[:3])
    code, text, err = vitatlas("score", out, "--truth", tower.masks, "--mask-values", "indexed")
    assert (code, "legrad" in text) == (0, True), err


def test_a_head_file_that_changed_after_the_plan_is_refused(vitatlas: Any, tmp_path: Path) -> None:
    tower, out = Tower("clip", tmp_path), tmp_path / "atlas"
    given = [tower.shard, "--out", out, *tower.model, "--methods", "legrad"]
    assert vitatlas("plan", *given)[0] == 0
    head = Head.load(tower.head)
    head.tensors["text"] = head.tensors["text"].flip(0).contiguous()
    head.save(tower.head)
    for command in (["run", out, "--executor", "inline"], ["plan", *given]):
        code, _, err = vitatlas(*command)
        assert (code, err.count("\n")) == (2, 1)
        assert "model.head.hash is 'sha256:" in err
    assert not Atlas.open(str(out)).committed
    tower.head.unlink()
    code, _, err = vitatlas("run", out, "--executor", "inline")
    assert (code, err) == (2, f"vitatlas: {tower.head}: no such file; check the path\n")


def test_an_atlas_without_a_head_has_the_hash_that_it_had_before_there_were_heads(atlas: Atlas) -> None:
    content = json.loads(atlas.run.to_bytes())
    assert content["model"].pop("head") is None
    assert content["spec"]["model"].pop("head") is None
    assert RunRecord.read(content, "run.json").sealed().run_hash == atlas.run.run_hash
    assert not {name for name in atlas.run.hashes if "head" in name}


def test_a_head_and_the_folder_it_is_named_from_are_part_of_the_run(
    vitatlas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower, out = Tower("clip", tmp_path), tmp_path / "atlas"
    monkeypatch.chdir(tmp_path)
    spec = {"shards": ["shard.tar"], "methods": ["legrad"], "model": {"name": "local-dir:tower", "pretrained": True}}
    spec["model"]["head"] = "head.safetensors"  # type: ignore[call-overload]
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    assert vitatlas("plan", "--spec", "spec.yaml", "--out", out)[0] == 0
    assert Atlas.open(str(out)).run.spec.model.head == str(tower.head)
    shutil.copy(tower.head, tmp_path / "other.safetensors")
    code, _, err = vitatlas("plan", "--spec", "spec.yaml", "--head", "other.safetensors", "--out", out)
    assert (code, "model.head is " in err, "other.safetensors" in err) == (2, True, True)


def test_the_backbone_needs_no_classifier_and_the_head_decides_the_read_out(tmp_path: Path) -> None:
    """The weights of a network whose norm precedes the mean fit the class token and the mean alike."""
    model = create_model("vit_small_patch16_dinov3", num_classes=0, embed_dim=48, depth=1, num_heads=4)
    weights = tmp_path / "w.safetensors"
    save_file(model.state_dict(), weights)
    config = {"architecture": "vit_small_patch16_dinov3", "model_args": {"embed_dim": 48, "depth": 1, "num_heads": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    head = Head.load(OPEN / "dinov2_head.safetensors")
    images = torch.randn(2, 3, *create_model(f"local-dir:{tmp_path}").patch_embed.img_size)
    tokens = model.eval().forward_features(images)
    mean = tokens[:, model.num_prefix_tokens :].mean(1)
    for read_out, features in (
        ("token+mean", torch.cat([tokens[:, 0], mean], 1)),
        ("mean", mean),
        ("token", tokens[:, 0]),
    ):
        width = features.shape[1]
        record = head.record.model_copy(update={"read_out": read_out, "parts": ()})
        one = Head(record, {"weight": head.tensors["weight"][:, :width].clone()})
        one.save(tmp_path / "head.safetensors")
        spec = ModelSpec(
            name="vit_small_patch16_dinov3", checkpoint=str(weights), head=str(tmp_path / "head.safetensors")
        )
        loaded = load_model(spec)
        assert loaded.record.readout == read_out
        with torch.no_grad():
            torch.testing.assert_close(loaded.model(images), features @ one.tensors["weight"].float().T)
    with pytest.raises(UsageError, match=r"it has no classifier, .* add a head file by --head FILE"):
        load_model(spec.model_copy(update={"head": None}))


def test_a_raw_tower_without_a_head_is_refused_with_the_flag(tmp_path: Path) -> None:
    name = "vit_base_patch16_clip_quickgelu_224"
    model = create_model(name, embed_dim=48, depth=1, num_heads=4, num_classes=512)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": name, "model_args": {"embed_dim": 48, "depth": 1, "num_heads": 4, "num_classes": 512}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"mean": [0.5] * 3}}))
    with pytest.raises(UnsupportedModel, match=r"embedding space of 512 channels, .* head file by --head FILE"):
        load_model(ModelSpec(name=f"local-dir:{tmp_path}", pretrained=True))


@pytest.mark.parametrize("command", ["plan", "methods", "bench"])
def test_a_head_for_another_network_is_one_sentence(vitatlas: Any, command: str, tmp_path: Path) -> None:
    tower = Tower("siglip", tmp_path)
    rest = {"plan": [tower.shard, "--out", tmp_path / "a", "--pretrained"], "methods": [], "bench": []}[command]
    code, _, err = vitatlas(command, *rest, "--model", "vit_tiny_patch16_224", "--head", tower.head)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tower.head}: does not fit VisionTransformer: its tokens are 192 wide; the head was made for 48" in err
    assert not (tmp_path / "a").exists()


def test_methods_and_bench_take_a_head(vitatlas: Any, case: str, tower: Tower, tmp_path: Path) -> None:
    model = ["--model", f"local-dir:{tower.folder}", "--head", tower.head]
    code, text, err = vitatlas("methods", *model, "--json")
    assert code == 0, err
    applies = {row["method"]: row["applies"] for row in json.loads(text)}
    assert {applies[name] for name in ("legrad", "reciprocam", "grad_input", "pm_zs")} == {"yes"}
    assert "--artifact FILE" in applies["diffmask"]
    out = tmp_path / "bench.json"
    given = ["--methods", "legrad", "--batch-size", 2, "--repeats", 1, "--device", "cpu", "--threads", 1, "--out", out]
    code, _, err = vitatlas("bench", *model, *given)
    assert code == 0, err
    plan = ["plan", tower.shard, *tower.model, "--methods", "legrad", "--batch-size", 2, "--bench", out]
    assert vitatlas(*plan, "--out", tmp_path / "a")[0] == 0
    other = Head.load(tower.head)
    main = "weight" if case == "dinov2" else "text"
    other.tensors[main] = other.tensors[main].flip(0).contiguous()
    other.save(tower.head)
    code, _, err = vitatlas(*plan, "--out", tmp_path / "b")
    assert (code, "was measured for another run: head is " in err, f"--head {tower.head}" in err) == (2, True, True)


def test_ten_thousand_classes_some_of_one_name_are_planned_computed_and_labeled(vitatlas: Any, tmp_path: Path) -> None:
    """Names are no keys: a format that needs different ones adds the class id."""
    tower, out = Tower("clip", tmp_path), tmp_path / "atlas"
    head = Head.load(tower.head)
    names = ("missile", "missile", *(f"class {index}" for index in range(2, 10_000)))
    text = torch.nn.functional.normalize(torch.randn(10_000, 40, generator=torch.Generator().manual_seed(0)), dim=1)
    Head(head.record.model_copy(update={"classes": names}), head.tensors | {"text": text}).save(tower.head)
    (tmp_path / "policy.yaml").write_text("{name: p, methods: [legrad], threshold: {kind: otsu}}")
    with in_one_process():
        run = ["run", tower.shard, "--out", out, *tower.model, "--methods", "legrad,reciprocam,pm_zs"]
        code, text_out, err = vitatlas(*run, "--executor", "inline")
        assert code == 0, err
        assert "zero_shot, softmax of 10,000 classes: missile, missile, class 2, class 3, class 4, …" in text_out
        assert vitatlas("label", out, "--policy", tmp_path / "policy.yaml", "--format", "coco")[0] == 0
    assert Atlas.open(str(out)).class_names() == names
    categories = json.loads((out / "labels" / "p" / "coco" / "instances.json").read_text())["categories"]
    used = [entry["name"] for entry in categories]
    assert len(set(used)) == len(used) >= 3
    assert {"missile (0)", "missile (1)", "class 2"} <= set(used)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": torch.full((4, 40), torch.nan)}, "text has values that are not finite; make the head again"),
        ({"logit_scale": torch.tensor(4.6)}, "logit_scale is 4.6, which looks like the logarithm of the factor"),
        ({"text": torch.ones(4, 39)}, "text has rows whose norm is not 1"),
    ],
)
def test_a_broken_head_file_is_one_sentence(vitatlas: Any, change: dict[str, Any], says: str, tmp_path: Path) -> None:
    tower = Tower("clip", tmp_path)
    head = Head.load(tower.head)
    save_file(head.tensors | change, tower.head, head.record.to_metadata())
    code, _, err = vitatlas("plan", tower.shard, "--out", tmp_path / "atlas", *tower.model)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tower.head}: {says}" in err
    assert not (tmp_path / "atlas").exists()


def test_faithfulness_is_refused_where_every_probability_is_one(vitatlas: Any, tmp_path: Path) -> None:
    tower, out = Tower("clip", tmp_path), tmp_path / "atlas"
    head = Head.load(tower.head)
    tensors = head.tensors | {"text": head.tensors["text"][:1].clone()}
    Head(head.record.model_copy(update={"classes": ("a cat",)}), tensors).save(tower.head)
    with in_one_process():
        run = ["run", tower.shard, "--out", out, *tower.model, "--methods", "legrad,reciprocam:score=logit"]
        code, text, err = vitatlas(*run, "--targets", "predicted", "--executor", "inline")
        assert (code, "head     zero_shot, softmax of 1 class: a cat\n" in text) == (0, True), err
        code, _, err = vitatlas("audit", out, "--target", "predicted", "--sanity", 0, "--recompute", 0)
    assert (code, "the softmax of its only class is always 1, so faithfulness is not defined" in err) == (2, True)


def test_a_head_and_a_number_of_classes_exclude_each_other(vitatlas: Any, tmp_path: Path) -> None:
    tower = Tower("clip", tmp_path)
    with pytest.raises(UsageError, match="has its own classes; leave out the number of classes, 5"):
        create_untrained(f"local-dir:{tower.folder}", str(tower.head), 5)
    code, _, err = vitatlas("methods", "--head", tower.head)
    assert (code, "--head needs the network that it is for: add --model NAME" in err) == (2, True)
