"""The command line: what works, and the exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from support import copy_atlas, encode, samples, soak_after, write_tar

from jobs.cli import COMMANDS
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.store import Atlas
from schemas.run import ModelSpec


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(vitatlas, command: str) -> None:
    code, out, _ = vitatlas(command, "--help")
    assert code == 0
    assert re.search(rf"Examples?:\n(.*\n)*? +.*vitatlas {command}", out)


def test_help_does_not_wait_for_torch() -> None:
    script = """
import sys
sys.argv = ["vitatlas", "--help"]
from jobs.cli import main
try:
    main()
except SystemExit:
    assert not {"torch", "ray", "timm", "zarr"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_plan_run_status_verify(vitatlas, spec, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    given = [*spec.shards, "--out", out, "--model", "test_vit", "--checkpoint", spec.model.checkpoint]
    code, text, _ = vitatlas("plan", *given, "--methods", "attention,legrad")
    assert code == 0
    assert "shards   3, of up to 7 rows each\nimages   16" in text
    assert vitatlas("verify", out)[0] == 75
    assert "0 of 3 shards" in vitatlas("status", out)[1]
    code, text, _ = vitatlas("run", out, "--executor", "inline")
    assert (code, "complete 3 shards, 16 images with maps, 0 without" in text) == (0, True)
    assert vitatlas("verify", out)[0] == 0
    report = json.loads(vitatlas("status", out, "--json")[1])
    assert report["shards"] == {"done": 3, "planned": 3}
    assert report["statuses"] == {"ok": 16}


def test_a_run_that_decodes_on_a_gpu_says_what_it_did_not_decode_there(vitatlas, spec, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    picture = encode(Image.new("RGB", (30, 20), "red"), "PNG")
    write_tar(tmp_path / "shards" / "part-2.tar", [*samples(3), ("z.jpg", picture), ("z.cls", b"1")])
    given = [*spec.shards, "--out", out, "--model", "test_vit", "--checkpoint", spec.model.checkpoint]
    assert vitatlas("plan", *given, "--methods", "attention", "--decode", "gpu")[0] == 0
    assert json.loads((out / "run.json").read_text())["spec"]["decode"] == "gpu"
    code, _, err = vitatlas("run", out, "--executor", "inline")
    assert (code, "no GPU here; use a machine with a GPU" in err, "Traceback" in err) == (2, True, False)
    assert vitatlas("run", out, "--executor", "inline", "--device", "cpu")[0] == 0
    assert re.search(
        r"images decoded in processes instead of on the GPU\n(.*\n)*│ PNG +│ +1 │", vitatlas("status", out)[1]
    )
    assert json.loads(vitatlas("status", out, "--json")[1])["fallbacks"] == {"PNG": 1}
    code, _, err = vitatlas("plan", *given, "--methods", "attention")
    assert (code, "decode is 'gpu', not 'processes'" in err) == (2, True)


def test_run_plans_first_when_it_is_given_what_plan_takes(vitatlas, spec, tmp_path: Path) -> None:
    given = [*spec.shards, "--out", tmp_path / "atlas", "--model", "test_vit", "--checkpoint", spec.model.checkpoint]
    command = ["run", *given, "--methods", "attention", "--executor", "inline"]
    assert vitatlas(*command)[0] == 0
    assert vitatlas(*command)[0] == 0
    code, _, err = vitatlas(*command, "--geometry", "crop")
    assert code == 2
    assert "geometry is 'squash', not 'crop'" in err


def test_failures_are_listed_by_status(vitatlas, checkpoint: ModelSpec, tmp_path: Path) -> None:
    members = [*samples(2), ("<b>bad</b>.jpg", b"junk"), ("<b>bad</b>.cls", b"1"), ("[red]x.cls", b"2")]
    shard = write_tar(tmp_path / "a.tar", members)
    given = ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint, "--methods", "attention"]
    code, text, err = vitatlas("run", shard, "--out", tmp_path / "atlas", *given, "--executor", "inline")
    assert (code, "2 images with maps, 2 without" in text) == (0, True)
    assert "a: 2 of 4 samples have no maps" in err
    text = vitatlas("status", tmp_path / "atlas")[1]
    assert "<b>bad</b>" in text
    assert "[red]x" in text
    assert "undecodable" in text


def test_a_broken_tar_ends_with_one_naming_it(vitatlas, spec, tmp_path: Path) -> None:
    broken = tmp_path / "shards" / "part-1.tar"
    broken.write_bytes(broken.read_bytes()[:5000])
    given = ["--model", "test_vit", "--checkpoint", spec.model.checkpoint, "--methods", "attention"]
    code, _, err = vitatlas("run", *spec.shards, "--out", tmp_path / "atlas", *given, "--executor", "inline")
    assert code == 1
    assert "part-1.tar: it is truncated; it will be quarantined" in err
    assert f"resume with: vitatlas run {tmp_path / 'atlas'}" in err


def test_methods_says_what_applies(vitatlas) -> None:
    rows = json.loads(vitatlas("methods", "--model", "vit_base_patch16_siglip_224", "--json")[1])
    assert {row["method"]: row["applies"] for row in rows}["legrad"] == "yes"
    lines = vitatlas("methods")[1].splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = [line for line in lines if " reciprocam " in line]
    assert line.split() == ["│", "reciprocam", "│", "class", "│", "≈0.2", "│", "Byun", "&", "Lee", "2023", "│"]


@pytest.mark.usefixtures("two_processes")
def test_score_and_label_through_the_command_line(
    vitatlas, atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "{name: half, methods: [legrad], threshold: {kind: fixed, value: 0.5}, postprocess: {keep: largest}}"
    )
    code, text, _ = vitatlas(
        "label", atlas.objects.url, "--policy", policy, "--format", "coco", "--out", tmp_path / "m"
    )
    assert (code, "48" in text) == (0, True)
    assert (tmp_path / "m" / "coco" / "instances.json").exists()
    assert not (tmp_path / "m" / "png").exists()
    code, text, _ = vitatlas("score", atlas.objects.url, "--truth", world.truth, "--methods", "legrad,center", "--json")
    by_method = {row["method"]: row for row in json.loads(text)}
    assert list(by_method) == ["legrad", "center", "centered square", "whole image"]
    assert by_method["legrad"]["tuning_images"] + by_method["legrad"]["test_images"] == 48
    assert "GT-known" in vitatlas("score", atlas.objects.url, "--truth", world.truth, "--methods", "center")[1]


def test_a_changed_byte_fails_verify_naming_the_object(vitatlas, spec, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    given = ["--model", "test_vit", "--checkpoint", spec.model.checkpoint, "--methods", "attention"]
    vitatlas("run", *spec.shards, "--out", out, *given, "--executor", "inline")
    victim = out / "maps.zarr" / "attention" / "c" / "1" / "0" / "0" / "0"
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    code, text, err = vitatlas("verify", out)
    assert code == 1
    assert f"1 faults; to repair these shards, remove {out}/commits/part-1.json, then: vitatlas run" in err
    assert "fault    part-1: maps.zarr/attention/c/1/0/0/0: its contents have changed" in text


@pytest.mark.parametrize("number", soak_after(1, [signal.SIGTERM, signal.SIGINT]))
def test_a_signal_ends_with_75_and_the_same_command_finishes(vitatlas, spec, tmp_path: Path, number: int) -> None:
    out = tmp_path / "atlas"
    given = ["--model", "test_vit", "--checkpoint", spec.model.checkpoint, "--methods", "attention"]
    command = ["run", *spec.shards, "--out", str(out), *given, "--executor", "inline"]
    started = [sys.executable, "-m", "jobs.cli", *command]
    job = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "commits").exists():
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.005)
    job.send_signal(number)
    _, err = job.communicate(timeout=60)
    assert job.returncode in (75, 0)  # 0: it was quicker than the signal
    if job.returncode == 75:
        assert err.rstrip().endswith(f"shards are left; resume with: vitatlas run {out} --executor inline")
    assert vitatlas(*command)[0] == 0
    assert len(Atlas.open(str(out)).commits) == 3


def test_status_of_a_damaged_atlas_names_what_is_damaged_and_the_rest(vitatlas, spec, tmp_path: Path) -> None:
    members = samples(4, 12)
    members[0] = (members[0][0], b"junk")
    write_tar(tmp_path / "shards" / "part-2.tar", members)
    out = tmp_path / "atlas"
    given = ["--model", "test_vit", "--checkpoint", spec.model.checkpoint, "--methods", "attention"]
    code, text, _ = vitatlas("run", *spec.shards, "--out", out, *given, "--executor", "inline")
    assert (code, "15 images with maps, 1 without; see vitatlas status" in text) == (0, True)
    (out / "samples" / "part-0.parquet").write_bytes(b"PAR1")
    code, text, _ = vitatlas("status", out)
    assert code == 0
    assert "samples/part-0.parquet: is not as it was committed" in text
    assert "s0012" in text
    assert f"vitatlas run {out} --retry-failed" in text


def test_what_the_disk_refuses_is_one_line(vitatlas, spec, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    given = ["--model", "test_vit", "--checkpoint", spec.model.checkpoint, "--methods", "attention"]
    code, _, err = vitatlas("plan", *spec.shards, "--out", tmp_path / "file", *given)
    assert code == 2
    assert f"Directory '{tmp_path}/file' is a file." in err
    code, _, err = vitatlas("plan", *spec.shards, "--out", tmp_path / "file" / "atlas", *given)
    assert code == 2
    assert err.strip() == f"vitatlas: {tmp_path}/file: Not a directory"


def test_an_object_that_is_gone_or_damaged_is_named(
    vitatlas, atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    import shutil

    copy = Path(shutil.copytree(atlas.objects.url, tmp_path / "copy", ignore=shutil.ignore_patterns("scores")))
    victim = copy / "maps.zarr" / "center" / "c" / "0" / "0" / "0" / "0"
    victim.write_bytes(victim.read_bytes()[:-9] + b"damaged!!")
    code, _, err = vitatlas("score", copy, "--truth", world.truth, "--methods", "center")
    assert code == 1
    assert "center/c/0/0/0/0: is not as it was committed; see vitatlas verify" in err
    (copy / "samples" / "demo-validation-01.parquet").unlink()
    code, text, _ = vitatlas("status", copy)
    assert code == 0
    assert "samples/demo-validation-01.parquet: is missing; see vitatlas verify" in text


def test_a_product_of_a_part_of_an_atlas_is_made_only_if_it_is_asked_for(
    vitatlas, atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    copy, policy = copy_atlas(atlas.objects.url, tmp_path / "copy"), tmp_path / "policy.yaml"
    (copy / "commits" / "demo-validation-01.json").unlink()
    policy.write_text("{name: p, methods: [legrad], threshold: {kind: otsu}}")
    label = ["label", copy, "--policy", policy, "--format", "png", "--out", tmp_path / "out"]
    whole = ["score", atlas.objects.url, "--truth", world.truth, "--tune", world.truth, "--tune-atlas", copy]
    for command in (label, ["score", copy, "--truth", world.truth], ["audit", copy, "--maps-only"], whole):
        code, out, err = vitatlas(*command)
        assert (code, out) == (2, "")
        assert err == (
            f"vitatlas: {copy}: only 1 of 2 shards are done; finish it: vitatlas run {copy}, or add --partial to use "
            "what there is\n"
        )
    assert not (tmp_path / "out").exists()
    code, _, err = vitatlas(*label, "--partial")
    assert (code, f"note     only 1 of 2 shards of {copy} are done" in err) == (0, True)


def test_ready_made_specs_are_specs() -> None:
    from importlib.resources import files

    from jobs.run_options import run_spec

    ready = [entry.name for entry in files("jobs").joinpath("specs").iterdir() if entry.name.endswith(".yaml")]
    assert sorted(ready) == ["imagenet1k-train.yaml", "imagenet1k-validation.yaml"]
    for name in ready:
        spec = run_spec((), name.removesuffix(".yaml"), {"root": "/data", "methods": "legrad", "seed": None})
        assert spec.model.pretrained
        assert spec.methods == ("legrad",)
        assert spec.root == "/data"


def test_the_help_of_label_names_every_format(vitatlas) -> None:
    from pipeline.label import LABEL_FORMATS

    text = " ".join(vitatlas("label", "--help")[1].split())
    assert f"Formats to write: {', '.join(LABEL_FORMATS)}." in text


def test_a_signal_while_python_ends_does_not_change_the_exit_code() -> None:
    script = """
import os, signal, sys
class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):
        kill(process, number)
late = Late()
from jobs.cli import main
sys.argv = ["vitatlas", "status", "nowhere"]
main()
"""
    job = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (job.returncode, job.stderr.count("\n")) == (2, 1), job.stderr


def test_an_interrupt_inside_of_exec_ends_with_75_too(tmp_path: Path) -> None:
    """As in the import of a dataclass, after which CPython would end by SIGINT although it was caught."""
    interrupted = "import jobs.cli as c; c.Commands.invoke = lambda *_: exec('raise KeyboardInterrupt'); c.main()"
    (tmp_path / "interrupted.py").write_text(interrupted)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "interrupted", "status", "a"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 75
    assert result.stderr == "\nvitatlas: stopped early; run the same command again to resume\n"
