"""``--json``: every command prints one document and nothing else, with the fields that are documented."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_towers import open_clip_folder
from support import copy_atlas, samples, write_tar

from jobs.cli import COMMANDS, cli
from jobs.output import print_json
from pipeline.demo import run_demo
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.store import Atlas
from schemas.run import RunSpec

PAGE = (
    (Path(__file__).parents[2] / "docs" / "reference" / "formats.md")
    .read_text()
    .partition("## JSON output: `--json`")[2]
)
DOCUMENTED = {
    command: re.findall(r"`([^`]+)`", fields)
    for command, fields in re.findall(r"^\| `([\w ]+)` \| (.*) \|$", PAGE, re.MULTILINE)
}
"""Names of the fields of each command, as the page has them."""


class Cases:
    """A small call of each command."""

    def __init__(self, atlas: Atlas, world: SyntheticDataset, spec: RunSpec, tmp_path: Path) -> None:
        self.atlas, self.world, self.spec, self.folder = atlas, world, spec, tmp_path
        model = ["--model", "test_vit", "--checkpoint", spec.model.checkpoint]
        self.given = [*spec.shards, "--out", tmp_path / "new", *model, "--methods", "attention"]
        write_tar(tmp_path / "held.tar", samples(4, 100))
        self.train = [*spec.shards, "--held-out", tmp_path / "held.tar", *model, "--steps", 2, "--batch-size", 4]

    def arguments(self, command: str) -> list[object]:
        return [*command.split(), *getattr(self, command.replace(" ", "_"))()]

    def pack(self) -> list[object]:
        (self.folder / "photos" / "cat").mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(self.folder / "photos" / "cat" / "a.png")
        return ["folder", self.folder / "photos", "--out", self.folder / "packed"]

    def plan(self) -> list[object]:
        return self.given

    def run(self) -> list[object]:
        return [*self.given, "--executor", "inline"]

    def status(self) -> list[object]:
        return [self.atlas.objects.url]

    def extend(self) -> list[object]:
        copy = copy_atlas(self.atlas.objects.url, str(self.folder / "extended"))
        return [copy, "--methods", "legrad,edges", "--executor", "inline"]

    def drop(self) -> list[object]:
        copy = copy_atlas(self.atlas.objects.url, str(self.folder / "dropped"))
        return [copy, "--methods", "legrad"]

    def verify(self) -> list[object]:
        return [self.atlas.objects.url, "--recompute", 1]

    def label(self) -> list[object]:
        policy = self.folder / "policy.yaml"
        policy.write_text("{name: half, methods: [legrad], threshold: {kind: fixed, value: 0.5}}")
        return [self.atlas.objects.url, "--policy", policy, "--format", "coco", "--out", self.folder / "masks"]

    def score(self) -> list[object]:
        return [self.atlas.objects.url, "--truth", self.world.truth, "--methods", "center", "--out", self.folder / "s"]

    def rank(self) -> list[object]:
        return [self.atlas.objects.url, "--images", 6, "--out", self.folder / "rank"]

    def annotate(self) -> list[object]:
        return [self.atlas.objects.url, "--images", 2, "--out", self.folder / "page"]

    def audit(self) -> list[object]:
        return [self.atlas.objects.url, "--methods", "legrad", "--maps-only", "--out", self.folder / "audit"]

    def methods(self) -> list[object]:
        return []

    def bench(self) -> list[object]:
        return ["--model", "test_vit", "--classes", 10, "--methods", "attention", "--batch", 1, "--repeats", 1]

    def train_diffmask(self) -> list[object]:
        return [*self.train, "--out", self.folder / "gates.safetensors"]

    def train_pm(self) -> list[object]:
        (self.folder / "masks").mkdir()
        Image.fromarray(np.eye(33, 43, dtype=np.uint8)).save(self.folder / "masks" / "s0003.png")
        return [*self.train, "--masks", self.folder / "masks", "--out", self.folder / "pm.safetensors"]

    def train_tscam(self) -> list[object]:
        return [*self.train, "--out", self.folder / "tscam.safetensors"]

    def head_text(self) -> list[object]:
        pytest.importorskip("open_clip")
        open_clip_folder(self.folder / "clip")
        (self.folder / "names.txt").write_text("cat\ndog\n")
        given = ["--open-clip", f"local-dir:{self.folder / 'clip'}", "--classes", self.folder / "names.txt"]
        return [*given, "--out", self.folder / "head.safetensors"]

    def head_probe(self) -> list[object]:
        return [*self.train[:-4], "--out", self.folder / "head.safetensors"]

    def head_prototypes(self) -> list[object]:
        return self.head_probe()

    def head_registers(self) -> list[object]:
        model = ["--model", "test_vit", "--checkpoint", self.spec.model.checkpoint]
        return [*self.spec.shards, *model, "--threshold", 0.1, "--out", self.folder / "registers.json"]

    def head_extract(self) -> list[object]:
        save_file({"weight": torch.ones(3, 8)}, self.folder / "probe.safetensors")
        given = ["--checkpoint", self.folder / "probe.safetensors", "--read-out", "token"]
        return [*given, "--out", self.folder / "head.safetensors"]


@pytest.fixture
def cases(atlas: Atlas, world: SyntheticDataset, spec: RunSpec, tmp_path: Path) -> Cases:
    return Cases(atlas, world, spec, tmp_path)


def below(command: str) -> list[str]:
    """A command, or those of a group."""
    found = cli.get_command(click.Context(cli), command)
    return [f"{command} {name}" for name in found.commands] if isinstance(found, click.Group) else [command]


NAMES = [name for command in COMMANDS for name in below(command)]


@pytest.mark.parametrize("command", [name for name in NAMES if name != "demo"])
def test_one_document_with_the_fields_that_are_documented_and_nothing_else(
    vitatlas, cases: Cases, command: str
) -> None:
    code, out, err = vitatlas(*cases.arguments(command), "--json")
    assert code == 0, err
    found = json.loads(out)
    first = found[0] if isinstance(found, list) else found
    assert set(first) == set(DOCUMENTED[command])


def test_the_demo_says_what_it_does_on_standard_error(
    vitatlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its document holds is asked in ``tests/demo``, where there is one."""

    def short(folder: Path, executor: str, log: Callable[[str], None]) -> dict[str, int]:
        log("1/5  a world")
        return {"images": 12}

    monkeypatch.setattr(run_demo, "run_demo", short)
    code, out, err = vitatlas("demo", tmp_path, "--json")
    assert (code, json.loads(out), err) == (0, {"images": 12}, "1/5  a world\n")


def test_every_command_is_documented() -> None:
    assert list(DOCUMENTED) == NAMES


def test_a_plan_says_what_it_expects_when_it_has_a_bench(vitatlas, cases: Cases) -> None:
    file = cases.folder / "bench.json"
    given = ["--model", "test_vit", "--classes", 10, "--methods", "attention", "--batch", 32, "--repeats", 1]
    assert vitatlas("bench", *given, "--out", file, "--json")[0] == 0
    code, out, err = vitatlas("plan", *cases.given, "--bench", file, "--deadline", "6h", "--price", 2, "--json")
    assert code == 0, err
    estimate = json.loads(out)["estimate"]
    assert estimate["needed"] == 1
    assert estimate["most"]["cost"] >= estimate["least"]["cost"] > 0
    assert set(estimate["most"]["seconds"]) >= {"decode", "forward", "attention", "write"}


def test_faults_are_in_the_document_and_in_the_exit_code(vitatlas, atlas: Atlas, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(atlas.objects.url, tmp_path / "copy", ignore=shutil.ignore_patterns("scores")))
    (copy / "samples" / "demo-validation-00.parquet").unlink()
    code, out, err = vitatlas("verify", copy, "--json")
    found = json.loads(out)
    assert (code, found["damaged"], found["recomputed"]) == (1, ["demo-validation-00"], None)
    assert "is missing" in found["faults"][0]
    assert "to repair these shards" in err


def test_a_mistake_prints_no_document(vitatlas) -> None:
    assert vitatlas("status", "nowhere", "--json")[:2] == (2, "")


def test_what_is_no_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), (1.5, float("inf"))], "b": "NaN"})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": [None, [1.5, None]], "b": "NaN"}
