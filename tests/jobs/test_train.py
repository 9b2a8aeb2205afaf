"""``vitatlas train`` from shards to gates that a run takes."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from docs.pages import blocks
from PIL import Image
from safetensors.torch import load_file, save_file
from support import samples, write_tar

from pipeline.explain import DiffMask, PatchMask, explain
from pipeline.explain.artifacts import read_artifact
from pipeline.explain.load import load_model
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.run import ModelSpec


@pytest.fixture
def arguments(shards: str, checkpoint: ModelSpec, tmp_path: Path) -> list[object]:
    held_out = write_tar(tmp_path / "held" / "out.tar", samples(6, 100))
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    return ["train", "diffmask", shards, "--held-out", held_out, *model, "--steps", 3, "--batch-size", 4]


def test_gates_are_trained_and_a_run_takes_them(
    vitatlas, arguments: list[object], shards: str, checkpoint: ModelSpec, tmp_path: Path
) -> None:
    out = tmp_path / "gates.safetensors"
    code, printed, _ = vitatlas(*arguments, "--learning-rate", "1e-3", "--out", out)
    assert code == 0
    assert f"--artifact {out}" in printed
    card = read_artifact(str(out)).record
    assert card is not None
    assert (card.steps, card.settings["learning_rate"], len(card.shards)) == (3, 1e-3, 3)
    code, printed, _ = vitatlas(*arguments, "--learning-rate", "1e-3", "--out", out)
    assert code == 0
    assert "already complete" in printed
    assert read_artifact(str(out)).record == card
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    use = ["--methods", "legrad", "--artifact", out, "--executor", "inline"]
    atlas = tmp_path / "atlas"
    code, _, err = vitatlas("run", shards, "--out", atlas, *model, *use)
    assert code == 0, err
    opened = Atlas.open(str(atlas))
    assert opened.methods == ("legrad", "diffmask")
    assert opened.run.artifacts == {"diffmask": "sha256:" + hashlib.sha256(out.read_bytes()).hexdigest()}
    assert 0 < opened.raw("s0000", "diffmask").max() < 1
    assert vitatlas("run", shards, "--out", atlas, *model, *use)[0] == 0  # all is there


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Of two of the images."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in (3, 9):
        values = np.zeros((30 + number % 5, 40 + number % 7), np.uint8)
        values[5:15, 10:30] = 1
        Image.fromarray(values).save(folder / f"s{number:04d}.png")
    return folder


def test_a_patch_mask_network_is_trained_and_a_run_takes_it_beside_gates(
    vitatlas, arguments: list[object], shards: str, checkpoint: ModelSpec, masks: Path, tmp_path: Path
) -> None:
    gates, out = tmp_path / "gates.safetensors", tmp_path / "pm.safetensors"
    assert vitatlas(*arguments, "--out", gates)[0] == 0
    arguments[1] = "pm"
    code, printed, err = vitatlas(*arguments, "--masks", masks, "--learning-rate", "1e-3", "--out", out)
    assert code == 0, err
    assert "held-out accuracy" in printed
    card = read_artifact(str(out)).record
    assert card is not None
    assert card.provenance == "pm_design_v1"
    assert card.supervision.startswith("labels, and 2 masks of 16 images (12.50 %): masks sha256:")
    network = timm.create_model(checkpoint.name, num_classes=10)
    network.load_state_dict(load_file(out))  # names and shapes are those of timm
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    atlas = tmp_path / "atlas"
    use = ["--methods", "pm_zs", "--artifact", out, "--artifact", gates, "--executor", "inline"]
    code, _, err = vitatlas("run", shards, "--out", atlas, *model, *use)
    assert code == 0, err
    opened = Atlas.open(str(atlas))
    assert opened.methods == ("pm_zs", "pm", "diffmask")
    assert opened.run.provenance["pm_zs"] == opened.run.provenance["pm"] == "pm_design_v1"
    (shard, *_) = opened.commits
    probability = opened.shard(shard).extra_output("pm", "probability")
    assert ((probability > 0) & (probability < 1)).all()


def test_pm_maps_are_those_of_its_own_weights(
    vitatlas, arguments: list[object], checkpoint: ModelSpec, masks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pm.safetensors"
    arguments[1] = "pm"
    assert vitatlas(*arguments, "--masks", masks, "--learning-rate", "1e-2", "--out", out)[0] == 0
    base, tuned = load_model(checkpoint).model, load_model(ModelSpec(name=checkpoint.name, checkpoint=str(out))).model
    images, targets = torch.randn(3, 3, *load_model(checkpoint).anatomy.input_size), torch.tensor([[0, 4]] * 3)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    maps = explain(base, images, targets, [PatchMask.load(out), "pm_zs"])
    assert torch.allclose(maps["pm"], explain(tuned, images, targets, "pm_zs")["pm_zs"], atol=1e-6)
    assert not torch.allclose(maps["pm"], maps["pm_zs"], atol=1e-3)
    expected = tuned(images).softmax(-1).gather(1, targets)
    assert torch.allclose(maps.extra_outputs["pm_probability"], expected, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    with pytest.raises(UsageError, match="is an artifact of pm, not of diffmask"):
        DiffMask.load(out)


@pytest.mark.parametrize("backbone", ["fine-tuned", "frozen"])
def test_ts_cam_is_trained_and_a_run_takes_it_and_is_scored(
    vitatlas, arguments: list[object], shards: str, checkpoint: ModelSpec, tmp_path: Path, backbone: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, atlas, held_out = tmp_path / "tscam.safetensors", tmp_path / "val.atlas", tmp_path / "held" / "out.tar"
    arguments[1] = "tscam"
    code, printed, err = vitatlas(*arguments, "--backbone", backbone, "--learning-rate", "1e-3", "--out", out)
    assert code == 0, err
    record = read_artifact(str(out)).record
    assert record is not None
    assert (record.provenance, record.supervision) == (f"TS-CAM (ICCV 2021), {backbone} backbone", "labels")
    reached = record.metrics
    figures = f"{reached['accuracy']:.4f}, of the network {reached['network_accuracy_before']:.4f}"
    assert f"held-out accuracy {figures}" in printed
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    use = ["--methods", "attention", "--artifact", out, "--executor", "inline"]
    code, _, err = vitatlas("run", shards, held_out, "--out", atlas, *model, *use)
    assert code == 0, err
    opened = Atlas.open(str(atlas))
    assert opened.methods == ("attention", "tscam")
    assert opened.run.provenance["tscam"] == record.provenance
    ranks = {name: opened.shard(name).extra_output("tscam", "rank") for name in opened.shard_names}
    assert (ranks["out"] == 0).mean() == pytest.approx(reached["accuracy"])  # the same images in training and run
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(16):
        values = np.zeros((30 + number % 5, 40 + number % 7), np.uint8)
        values[5:25, 10:35] = 1
        Image.fromarray(values).save(masks / f"s{number:04d}.png")
    monkeypatch.chdir(tmp_path)
    code, printed, err = vitatlas("score", atlas, "--truth", masks, "--subset", "--out", "scores")
    assert code == 0, err
    assert "tscam" in printed
    (own,) = (block for block in blocks("python") if block.page.name == "training.md")
    found: dict[str, object] = {}
    exec(compile(own.text, own.name, "exec"), found)
    keys = [key for name in ranks for key in opened.shard(name).samples["key"].to_pylist()]
    rank_of = dict(zip(keys, np.concatenate(list(ranks.values())).tolist(), strict=True))
    rows = pq.read_table("scores/images/rows").to_pylist()
    tested = [row for row in rows if row["method"] == "tscam" and row["split"] == "test"]
    assert len(tested) == 8  # of 16, half are for the threshold
    hits = [row["iou"] >= 0.5 for row in tested if rank_of[row["key"]] == 0]
    assert found["top1_loc"] == pytest.approx(100 * sum(hits) / len(tested))


def test_ts_cam_of_a_network_without_a_class_token_is_refused_before_any_work(
    vitatlas, arguments: list[object], tmp_path: Path
) -> None:
    weights, out = tmp_path / "mean.safetensors", tmp_path / "tscam.safetensors"
    save_file(timm.create_model("test_vit", num_classes=10, global_pool="avg").state_dict(), weights)
    arguments[1] = "tscam"
    arguments[arguments.index("--checkpoint") + 1] = weights
    code, _, err = vitatlas(*arguments, "--global-pool", "avg", "--out", out)
    assert (code, err.count("\n")) == (2, 1), err
    assert "TS-CAM is not defined for it" in err
    assert "take a model that classifies by its class token" in err
    assert not out.exists()


def test_a_network_learns_from_pseudo_masks_of_an_atlas(
    vitatlas, arguments: list[object], shards: str, checkpoint: ModelSpec, tmp_path: Path
) -> None:
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    atlas, policy = tmp_path / "atlas", tmp_path / "policy.yaml"
    assert vitatlas("run", shards, "--out", atlas, *model, "--methods", "legrad", "--executor", "inline")[0] == 0
    policy.write_text("name: p\nmethods: [legrad]\nthreshold: {kind: otsu}\n")
    out = tmp_path / "pm.safetensors"
    arguments[1] = "pm"
    code, _, err = vitatlas(*arguments, "--atlas", atlas, "--policy", policy, "--out", out)
    assert code == 0, err
    assert read_artifact(str(out)).record.provenance == "pm_design_v1, wsol"
    assert read_artifact(str(out)).record.supervision.startswith(
        "labels, and pseudo-masks without localization labels: p sha256:"
    )


def test_a_run_does_not_go_on_with_other_gates(
    vitatlas, arguments: list[object], shards: str, checkpoint: ModelSpec, tmp_path: Path
) -> None:
    out, atlas = tmp_path / "gates.safetensors", tmp_path / "atlas"
    assert vitatlas(*arguments, "--out", out)[0] == 0
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    assert vitatlas("plan", shards, "--out", atlas, *model, "--artifact", out)[0] == 0
    assert "legrad" in Atlas.open(str(atlas)).methods  # beside every cheap one
    code, _, err = vitatlas(*arguments, "--seed", 7, "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    assert "exists, and is of another training" in err
    out.unlink()
    assert vitatlas(*arguments, "--seed", 7, "--out", out)[0] == 0
    for again in (["run", atlas, "--executor", "inline"], ["plan", shards, "--out", atlas, *model, "--artifact", out]):
        code, _, err = vitatlas(*again)
        assert (code, err.count("\n")) == (2, 1)
        assert "the artifact of diffmask was sha256:" in err
    assert not Atlas.open(str(atlas)).commits


def test_what_was_trained_on_other_weights_is_not_taken_for_done(
    vitatlas, arguments: list[object], checkpoint: ModelSpec, tmp_path: Path
) -> None:
    """The same command, where the file of the weights has changed since."""
    weights, out = tmp_path / "weights.safetensors", tmp_path / "gates.safetensors"
    arguments[arguments.index("--checkpoint") + 1] = weights
    weights.write_bytes(Path(checkpoint.checkpoint).read_bytes())
    assert vitatlas(*arguments, "--out", out)[0] == 0
    save_file({name: tensor * 1.5 for name, tensor in load_file(weights).items()}, weights)
    code, _, err = vitatlas(*arguments, "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    assert "exists, and is of another training" in err


def test_a_setting_out_of_its_range_is_refused_and_the_help_shows_the_range(vitatlas, arguments: list[object]) -> None:
    arguments[1] = "pm"
    code, _, err = vitatlas(*arguments, "--min-crop-area", "2")
    assert code == 2
    assert "2.0 is not in the range 0<x<=1" in err
    _, out, _ = vitatlas("train", "pm", "--help")
    assert "None]" not in out
    assert "0<x<=1" in out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ([], "there are no masks to train on; give --masks FILE|DIR, or --atlas ATLAS with --policy FILE"),
        (["--masks", "nowhere"], "nowhere: No such file"),
        (["--masks", "{masks}", "--measure", "nowhere.json"], "nowhere.json: No such file"),
        (
            ["--masks", "{other}"],
            "other: none of its 1 images is a usable sample of the training shards; check that the keys are",
        ),
        (
            ["--masks", "{wrong}"],
            "s0003: its mask is 7×5 pixels, the image 43×33; are these the masks of",
        ),
        (["--masks", "{masks}", "--measure", "{other}"], "--measure: none of its masks is of a held-out image"),
        (["--masks", "{pseudo}"], "pseudo: holds pseudo-masks of vitatlas label; train on them by --atlas"),
    ],
)
def test_masks_that_do_not_fit_are_one_sentence(
    vitatlas, arguments: list[object], change: list[str], says: str, masks: Path, tmp_path: Path
) -> None:
    for folder, name in (("other", "x.png"), ("wrong", "s0003.png"), ("pseudo", "s0003.mask.png")):
        (tmp_path / folder).mkdir()
        Image.new("L", (7, 5)).save(tmp_path / folder / name)
    places = {"masks": masks} | {name: tmp_path / name for name in ("other", "wrong", "pseudo")}
    arguments[1] = "pm"
    out = tmp_path / "pm.safetensors"
    code, _, err = vitatlas(*arguments, *(each.format(**places) for each in change), "--out", out)
    assert (code, err.count("\n")) == (2, 1), err
    assert says in err
    assert not out.exists()


def test_gates_of_another_network_are_refused_before_anything_is_written(
    vitatlas, arguments: list[object], shards: str, tmp_path: Path
) -> None:
    out = tmp_path / "gates.safetensors"
    assert vitatlas(*arguments, "--out", out)[0] == 0
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), tmp_path / "other.safetensors")
    model = ["--model", "test_vit", "--checkpoint", tmp_path / "other.safetensors"]
    code, _, err = vitatlas("plan", shards, "--out", tmp_path / "x", *model, "--methods", f"diffmask:artifact={out}")
    assert (code, err.count("\n")) == (2, 1)
    assert "was trained for a model with other weights" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--out", "nowhere/gates.safetensors"], "there is no folder nowhere"),
        (["--out", "gates.safetensors", "--pretrained"], "exactly one of pretrained and checkpoint"),
        (["--out", "gates.safetensors", "--steps", "0"], "--steps"),
    ],
)
def test_bad_usage_is_one_sentence(
    vitatlas, arguments: list[object], change: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = vitatlas(*arguments, *change)
    assert code == 2
    assert says in err
    assert not (tmp_path / "gates.safetensors").exists()


def test_tars_that_are_learnt_from_cannot_be_held_out(vitatlas, arguments: list[object], shards: str, tmp_path) -> None:
    code, _, err = vitatlas(*arguments, "--held-out", shards, "--out", tmp_path / "gates.safetensors")
    assert code == 2
    assert "is both a training shard and a held-out shard" in err


def labelled(path: Path, label: bytes | None) -> Path:
    """A shard of four images, all with one label, or without."""
    members = [(name, label if name.endswith("cls") else data) for name, data in samples(4)]
    return write_tar(path, [(name, data) for name, data in members if data is not None])


NO_LABEL = "4 samples have no label (odd: s0000); add a .cls member with the class id to each"
WRONG_LABEL = (
    "4 samples have a label that the network does not have (odd: s0000: label 10 is outside of 0 … 9); label them with "
    "its class ids, from 0, or take the network that they are labels of"
)
NO_NUMBER = "4 samples have a label that is no class id (odd: s0000: the .cls member is b'cat', not a number"


@pytest.mark.parametrize(("label", "says"), [(None, NO_LABEL), (b"10", WRONG_LABEL), (b"cat", NO_NUMBER)])
@pytest.mark.parametrize("place", ["train", "held-out", "masks"])
def test_labels_that_cannot_be_learned_from_are_named_with_what_to_do(
    vitatlas, arguments: list[object], masks: Path, tmp_path: Path, label: bytes | None, says: str, place: str
) -> None:
    arguments[arguments.index("--held-out") + 1 if place == "held-out" else 2] = labelled(tmp_path / "odd.tar", label)
    if place == "masks":
        arguments[1] = "pm"
        arguments += ["--masks", masks]
    else:
        arguments += ["--objective", "class"]
    code, _, err = vitatlas(*arguments, "--out", tmp_path / "gates.safetensors")
    assert (code, err.count("\n")) == (2 if place == "masks" else 1, 1), err
    assert says in err
    assert "keys" not in err
    begins = {
        "train": "vitatlas: the training shards have no usable sample: 4",
        "held-out": "vitatlas: the held-out shards have no usable sample: 4",
        "masks": f"vitatlas: {masks}: none of its 2 images is a usable sample of the training shards: 4",
    }
    assert err.startswith(begins[place])


def test_gates_without_labels_are_trained_on_shards_without_labels(
    vitatlas, arguments: list[object], tmp_path: Path
) -> None:
    arguments[2] = labelled(tmp_path / "odd.tar", None)
    assert vitatlas(*arguments, "--out", tmp_path / "gates.safetensors")[0] == 0


def test_gates_that_are_no_better_than_shuffled_or_above_the_tolerance_are_warned_of(
    vitatlas, arguments: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "gates.safetensors"
    odd = [*arguments, "--tolerance", "1e-9", "--gate-bias", "-100", "--out", out]  # every patch is masked
    code, printed, err = vitatlas(*odd)
    assert code == 0
    record = read_artifact(str(out)).record
    assert record is not None
    kl, shuffled = record.metrics["kl"], record.metrics["kl_shuffled"]
    assert kl >= shuffled > 1e-9
    assert record.warnings == (
        f"the masks preserve the prediction no better than shuffled: KL {kl:.3f}, {shuffled:.3f} shuffled",
        f"the masks change the prediction more than allowed: KL {kl:.3f}, tolerance 1e-09",
    )
    assert [line for line in err.splitlines() if line.startswith("warning")] == [
        f"warning  {warning}" for warning in record.warnings
    ]
    code, again, err = vitatlas(*odd, "--strict")  # of a training that is complete, too
    assert code == 1
    assert "the results of the training give a warning" in err
    assert again == printed.replace("trained", "already complete\ntrained")
    assert out.exists()


def test_a_network_that_predicts_worse_than_before_its_training_is_warned_of(
    vitatlas, arguments: list[object], masks: Path, tmp_path: Path
) -> None:
    arguments[1] = "pm"
    out = tmp_path / "pm.safetensors"
    broken = [*arguments, "--masks", masks, "--learning-rate", "10", "--warmup-steps", "0", "--out", out]
    code, _, err = vitatlas(*broken, "--strict")
    assert code == 1
    record = read_artifact(str(out)).record
    assert record is not None
    ce, before = record.metrics["ce"], record.metrics["ce_before"]
    (warning,) = record.warnings
    assert warning == (
        f"the network predicts worse than before on held-out images: cross-entropy {ce:.4f}, before {before:.4f}"
    )
    assert f"warning  {warning}\n" in err
