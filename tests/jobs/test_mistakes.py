"""What a user's mistake looks like: one sentence, and exit code 2."""

from pathlib import Path

import pytest
import yaml
from support import samples, write_tar

from pipeline.demo.train_model import MODEL
from pipeline.store import Atlas
from schemas.run import ModelSpec

DEMO = ["--model", f"local-dir:{MODEL}", "--pretrained", "--methods", "attention"]

SWIN = "swin_tiny_patch4_window7_224"
MISTAKES = {
    "no model": (["a.tar", "--out", "x"], "no model: add --model NAME"),
    "no weights": (
        ["a.tar", "--out", "x", "--model", "test_vit"],
        "test_vit: has no weights; add --pretrained or --checkpoint",
    ),
    "two weights": (
        ["a.tar", "--out", "x", "--model", "test_vit", "--pretrained", "--checkpoint", "w.safetensors"],
        "exactly one of pretrained and checkpoint",
    ),
    "no shards": (["--out", "x", *DEMO], "no shards: name them"),
    "no out": (["a.tar", *DEMO], "no atlas: name the output with --out ATLAS"),
    "no such shard": (["nowhere.tar", "--out", "x", *DEMO], "nowhere.tar: no such shard"),
    "no such method": (
        ["a.tar", "--out", "x", *DEMO[:3], "--methods", "lograd"],
        "; did you mean legrad?",
    ),
    "no such target": (
        ["a.tar", "--out", "x", *DEMO, "--targets", "top5"],
        "targets.0: there is no target kind 'top5'; there are label, label:M, predicted, top:K",
    ),
    "a target twice": (["a.tar", "--out", "x", *DEMO, "--targets", "label,label"], "a target is named twice"),
    "batch of none": (["a.tar", "--out", "x", *DEMO, "--batch-size", "0"], "batch_size: Input should be greater"),
    "no such geometry": (["a.tar", "--out", "x", *DEMO, "--geometry", "warp"], "'warp' is not one of"),
    "no such model": (["a.tar", "--out", "x", "--model", "vit_tinny", "--pretrained"], "timm has no model 'vit_tinny'"),
    "a windowed model": (
        ["a.tar", "--out", "x", "--model", SWIN, "--checkpoint", "swin.safetensors", "--methods", "legrad"],
        "legrad is not defined for SwinTransformer: it needs attention of every token to every token",
    ),
    "another architecture": (
        ["a.tar", "--out", "x", "--model", "vit_tiny_patch16_224", "--checkpoint", "{checkpoint}"],
        "is not a checkpoint of vit_tiny_patch16_224",
    ),
    "no such spec": (
        ["a.tar", "--out", "x", "--spec", "nowhere"],
        "ready-made specs are imagenet1k-train, imagenet1k-val",
    ),
    "a spec that is none": (["a.tar", "--out", "x", "--spec", "list.yaml"], "list.yaml: must be a mapping of shards"),
    "unknown field": (
        ["a.tar", "--out", "x", "--spec", "field.yaml"],
        "metods: there is no such field; the fields are shards",
    ),
    "a spec with a word for a model": (["a.tar", "--out", "x", "--spec", "word.yaml"], "model: must be a mapping"),
    "a spec that is no text": (["a.tar", "--out", "x", "--spec", "bytes.yaml"], "bytes.yaml: is not a text file"),
    "an atlas without a name": (["a.tar", "--out", "", *DEMO], "no atlas: name the output"),
    "empty shard": (["empty.tar", "--out", "x", *DEMO], "empty.tar: it is empty; no shard can be used"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_two(
    vitatlas, mistake: str, tmp_path: Path, checkpoint: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "a.tar", samples(1))
    (tmp_path / "empty.tar").touch()
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "word.yaml").write_text("model: test_vit")
    (tmp_path / "list.yaml").write_text("- a")
    (tmp_path / "field.yaml").write_text(yaml.safe_dump({"metods": ["a"], "model": {"name": "x", "pretrained": True}}))
    if "swin" in mistake or "windowed" in mistake:
        save_file(timm.create_model(SWIN).state_dict(), tmp_path / "swin.safetensors")
    arguments, says = MISTAKES[mistake]
    for command in ("plan", "run"):
        given = [part.format(checkpoint=checkpoint.checkpoint) for part in arguments]
        code, _, err = vitatlas(command, *given)
        assert (code, "Traceback" in err) == (2, False)
        if (command, mistake) != ("run", "no out"):
            assert says in err
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "name one planned atlas"),
        (["run", "nowhere"], "nowhere: is not an atlas"),
        (["run", "nowhere", "--seed", "1"], "--seed is for planning: name a new atlas with --out"),
        (["status", "nowhere"], "nowhere: is not an atlas"),
        (["verify", "nowhere"], "nowhere: is not an atlas"),
        (["score", "nowhere", "--truth", "x"], "nowhere: is not an atlas"),
        (["label", "nowhere", "--policy", "none.yaml"], "none.yaml: No such file"),
        (["label", "nowhere"], "name either how maps become masks, --policy FILE, or masks made elsewhere"),
        (["methods", "--model", "vit_tinny"], "timm has no model 'vit_tinny'"),
        (["paint"], "No such command 'paint'"),
        (["statsu"], "No such command 'statsu'; did you mean status?"),
        (["label", "x", "--polcy", "p"], "No such option '--polcy'"),
        (["run", "x", "--timeout", "nan"], "nan is not a finite number"),
        (["run", "x", "--patience", "inf"], "inf is not a finite number"),
        (["run", "x", "--timeout", "-1"], "-1"),
        (["status", "x", "--watch", "--interval", "nan"], "nan is not a finite number"),
        (["train", "pm", "x", "--learning-rate", "nan"], "nan is not a finite number"),
        (["verify", "x", "--recompute", "-1"], "-1 is not in the range"),
        (["verify", "x", "--recompute", "soon"], "'soon' is not a time; write it as 30s"),
        (["verify", "x", "--recompute", "1.5"], "'1.5' is not a valid integer range"),
        (["plan", "--spec", "imagenet1k-trian", "--out", "x"], "did you mean imagenet1k-train"),
    ],
)
def test_mistakes_of_the_other_commands(vitatlas, arguments: list[str], says: str) -> None:
    code, _, err = vitatlas(*arguments)
    assert code == 2
    assert says in err


OUT = {
    "demo": [],
    "audit": ["x", "--out"],
    "score": ["x", "--truth", "x", "--out"],
    "label": ["x", "--policy", "x", "--out"],
    "plan": ["x", *DEMO, "--out"],
    "run": ["x", *DEMO, "--out"],
}


@pytest.mark.parametrize("command", OUT)
def test_a_file_where_a_folder_is_to_be_made_is_a_mistake(vitatlas, command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, err = vitatlas(command, *OUT[command], tmp_path / "file")
    assert code == 2
    assert f"Directory '{tmp_path}/file' is a file." in err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("given", "meant"), [(["--format", "pgn"], "png"), ([], "legrad")])
def test_the_nearest_name_is_offered(
    vitatlas, atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    method = "legrad" if "--format" in given else "lograd"
    (tmp_path / "policy.yaml").write_text(f"{{name: p, methods: [{method}], threshold: {{kind: fixed, value: 0.5}}}}")
    code, _, err = vitatlas("label", atlas.objects.url, "--policy", "policy.yaml", *given, "--out", "masks")
    assert code == 2
    assert f"; did you mean {meant}?" in err
    assert not (tmp_path / "masks").exists()
