"""``vitatlas head probe`` and ``vitatlas head prototypes``: from shards to a head that a run takes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from some_networks import TIMM
from support import DEMO_MODEL, samples, soak_after, write_tar

from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.explain import Head
from pipeline.explain.load import load_model
from pipeline.head.learn_head import learn_head
from pipeline.store import Atlas
from schemas.learned_head import LearnedHeadSpec
from schemas.run import ModelSpec


@pytest.fixture
def arguments(shards: str, checkpoint: ModelSpec, tmp_path: Path) -> list[object]:
    held_out = write_tar(tmp_path / "held.tar", samples(6, 100))
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    return [shards, "--held-out", held_out, *model, "--out", tmp_path / "head.safetensors"]


@pytest.mark.parametrize("command", soak_after(1, ["probe", "prototypes"]))
def test_a_run_takes_the_head(
    vitatlas, arguments: list[object], command: str, shards: str, checkpoint: ModelSpec, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"kind {index}\n" for index in range(10)))
    code, printed, err = vitatlas("head", command, *arguments, "--classes", names, "--read-out", "mean")
    assert code == 0, err
    assert "16 to learn from, 6 held out" in printed
    assert "held-out accuracy 0." in printed
    assert ("steps" in printed) == (command == "probe")
    assert command == "probe" or "10 classes have fewer than 5 images" in err
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    use = ["--head", arguments[-1], "--methods", "legrad", "--executor", "inline"]
    code, _, err = vitatlas("run", shards, "--out", tmp_path / "atlas", *model, *use)
    assert code == 0, err
    record = Atlas.open(str(tmp_path / "atlas")).run.model
    assert record.readout == "mean"
    assert record.class_names == tuple(f"kind {index}" for index in range(10))


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_a_probe_of_a_network_that_reads_a_mean_gives_class_activation_maps(
    vitatlas, name: str, shards: str, tmp_path: Path
) -> None:
    """From a network without a classifier in a folder to the maps of its new classes."""
    folder, out, atlas = tmp_path / "network", tmp_path / "head.safetensors", tmp_path / "atlas"
    folder.mkdir()
    torch.manual_seed(0)
    arguments = TIMM[name] | {"num_classes": 0}
    save_file(timm.create_model(name, **arguments).state_dict(), folder / "model.safetensors")
    images = {"input_size": [3, 64, 64], "num_classes": 0}
    content = {"architecture": name, "model_args": arguments, "pretrained_cfg": images}
    (folder / "config.json").write_text(json.dumps(content))
    held_out = write_tar(tmp_path / "held.tar", samples(6, 100))
    model = ["--model", f"local-dir:{folder}", "--pretrained"]
    code, _, err = vitatlas("head", "probe", shards, "--held-out", held_out, *model, "--out", out, "--l2", "1")
    assert code == 0, err
    run = ["run", held_out, "--out", atlas, *model, "--head", out, "--methods", "cam,gradcam,reciprocam"]
    code, _, err = vitatlas(*run, "--executor", "inline")
    assert code == 0, err

    head, opened = Head.load(out), Atlas.open(str(atlas))
    assert (head.record.read_out, head.record.backbone_sha256) == ("mean", opened.run.model.head.backbone)
    network: Any = load_model(ModelSpec(name=f"local-dir:{folder}", pretrained=True, head=str(out))).model
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = network.forward_head(network.forward_features(pixels), pre_logits=True)
        expected = features @ head.tensors["weight"].T + head.tensors["bias"]
        assert (network(pixels) - expected).abs().max() < 1e-6
    # The mean of a map and the bias are the logit, so two maps tell how much more probable one class is.
    rows = opened.samples(["key", "label", "prediction", "label_probability", "probability"]).to_pylist()
    assert any(row["label"] != row["prediction"] for row in rows)
    for row in rows:
        logits = []
        for target, column in (("label", "label"), ("predicted", "prediction")):
            values = opened.raw(row["key"], "cam", target)
            logits.append(values.mean() + float(head.tensors["bias"][row[column]]))
        odds = math.log(row["label_probability"] / row["probability"])
        assert logits[0] - logits[1] == pytest.approx(odds, abs=1e-2)


def test_mistakes_are_one_sentence(vitatlas, arguments: list[object]) -> None:
    for flags, message in (
        (["--l2", "a"], "--l2 a: is not a list of numbers; write it as 0.1,0.01"),
        (["--l2", "0"], "the flags: l2.0: Input should be greater than 0"),
        (["--held-out-share", "0.5"], "--held-out-share is a part of SHARD…, and --held-out names other shards"),
        (["--held-out-share", "1"], "Invalid value for '--held-out-share'"),
        (["--read-out", "pool"], "--read-out pool: does not fit VisionTransformer"),
        (["--pretrained"], "exactly one of pretrained and checkpoint"),
    ):
        code, _, err = vitatlas("head", "probe", *arguments, *flags)
        assert code == 2
        assert message in err
        assert not Path(f"{arguments[-1]}.features").exists()


def accuracies(folder: Path, scenes: int, held_out: int) -> dict[str, float]:
    """Accuracy of a probe and of prototypes on the demo network."""
    write_dataset(train := SyntheticDataset(folder / "train", 1, scenes, split="train", num_annotated=0))
    write_dataset(held := SyntheticDataset(folder / "held", 1, held_out, split="heldout", num_annotated=0))
    reached = {}
    for command in ("head probe", "head prototypes"):
        out, features = str(folder / f"{command}.safetensors"), str(folder / "features")
        data = {"shards": (train.shards,), "held_out": (held.shards,), "features": features, "out": out}
        spec = LearnedHeadSpec.read(data | {"command": command, "model": DEMO_MODEL}, "a test")
        reached[command] = learn_head(spec).metrics.accuracy
    return reached


def test_heads_of_the_demo_network_classify(tmp_path: Path) -> None:
    reached = accuracies(tmp_path, 100, 60)
    assert reached["head probe"] >= 0.93
    assert reached["head prototypes"] >= 0.93


@pytest.mark.soak
def test_a_probe_is_as_good_as_the_classifier_of_the_demo_network(tmp_path: Path) -> None:
    """That has 98.5 % by its card."""
    assert accuracies(tmp_path, 2000, 1000)["head probe"] >= 0.975
