"""``vitatlas audit``: what it makes, what it prints, and how it refuses."""

import json
import re
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from processes import alive_in_session, soon
from support import soak_after

from pipeline.audit.publication.manifest import write_manifest
from pipeline.audit.publication.verify_audit import verify_audit
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.label import label
from pipeline.store import Atlas
from schemas.policy import Policy, Threshold

SMALL = ("--images", 2, "--sanity", 1, "--recompute", 2)
NAMES = [f"class {index}" for index in range(10)]


def test_an_audit_is_made_checked_and_holds_no_path_of_its_machine(
    vitatlas, atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    pytest.importorskip("h5py")
    url = shutil.copytree(atlas.objects.url, tmp_path / "atlas")
    label(
        Atlas.open(str(url)),
        Policy(name="otsu", methods=("legrad",), threshold=Threshold(kind="otsu")),
        ["png"],
        str(tmp_path / "masks"),
    )
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    code, printed, said = vitatlas(
        "audit", url, "--truth", world.truth, "--classes", names, "--export", "virelay,quantus",
        "--lineage-dir", tmp_path / "masks", *SMALL,
    )  # fmt: skip
    assert code == 0
    assert "as fast as the run was: faithfulness " in said
    assert "faithfulness: 2 images, about " in said
    assert "of 10 classes may depend on a shortcut" in printed
    out = url / "audit" / "label"
    assert f"report   {out}/report/index.html" in printed
    assert {"virelay", "quantus", "report", "faithfulness", "sanity"} <= {path.name for path in out.iterdir()}
    (root,) = re.findall(r"^root     (sha256:\w{64})", printed, re.M)
    assert vitatlas("audit", "--check", out, "--root", root)[0] == 0
    code, printed, _ = vitatlas("audit", "--check", out)
    assert code == 0
    assert root in printed
    for word in (str(tmp_path), str(Path.home()), str(Path(__file__).parents[2]), socket.gethostname()):
        if len(word) > 4:  # a short one may be anywhere
            told = [path for path in out.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
            assert told == [], word


def test_an_export_that_is_not_made_again_is_not_published(vitatlas, atlas: Atlas, tmp_path: Path) -> None:
    audit = ("audit", atlas.objects.url, "--out", tmp_path / "out", "--methods", "legrad", "--maps-only")
    assert vitatlas(*audit, "--export", "quantus")[0] == 0
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    code, _, said = vitatlas(*audit)
    assert code == 2
    assert "holds an export to quantus; add --export quantus, or remove it" in said
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    part = next((tmp_path / "out" / "quantus" / "shards").rglob("legrad.npy"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    write_manifest(str(tmp_path / "out"))  # by who can write to the folder
    (fault,) = verify_audit(str(tmp_path / "out"))
    assert fault.startswith(f"{part.relative_to(tmp_path / 'out')}: differs from quantus/commits/")


def test_what_was_changed_is_named_with_exit_code_1(vitatlas, atlas: Atlas, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    assert vitatlas("audit", atlas.objects.url, "--out", out, "--methods", "legrad", "--maps-only")[0] == 0
    (out / "methods.parquet").write_bytes(b"x" + (out / "methods.parquet").read_bytes()[1:])
    code, printed, said = vitatlas("audit", "--check", out)
    assert code == 1
    assert "fault    methods.parquet: its contents have changed since they were published" in printed
    assert "Traceback" not in said
    code, printed, _ = vitatlas("audit", "--check", out, "--json")
    assert (code, len(json.loads(printed)["faults"])) == (1, 1)


def test_from_the_maps_alone_neither_network_nor_tars_are_needed(
    vitatlas, atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.explain.load.load_model", None)
    monkeypatch.setattr("pipeline.read.loader", None)
    code, printed, _ = vitatlas("audit", atlas.objects.url, "--out", tmp_path / "out", "--maps-only", "--json")
    assert code == 0
    assert len(json.loads(printed)["suspicious"]) == 10
    assert not (tmp_path / "out" / "faithfulness").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name an atlas to audit, or the folder of an audit to verify with --check"),
        (["ATLAS", "--check", "ATLAS"], "name an atlas to audit"),
        (["ATLAS", "--root", "sha256:0"], "--root needs the folder of an audit to verify: --check DIR"),
        (["--check", "ATLAS"], "has no manifest.json, so it was not published; name one of its audits"),
        (["--check", "nowhere"], "has no manifest.json, so it was not published; name the folder of an audit"),
        (["ATLAS", "--methods", "lograd"], "has no maps of 'lograd'; it has attention, legrad"),
        (["ATLAS", "--classes", "two.txt"], "has 10 classes, not the 2 that are named"),
        (["ATLAS", "--export", "excel"], "there is no export 'excel'; there are virelay, quantus"),
        (["ATLAS", "--publication", "two.txt"], "two.txt: must be a mapping of name, license, url"),
        (["ATLAS", "--out", "ATLAS"], "holds an atlas; name another --out"),
        (["ATLAS", "--truth", "nowhere"], "nowhere"),
        (["ATLAS", "--out", "."], "holds two.txt, which belongs to no audit; name an empty folder"),
        (["ATLAS", "--maps-only", "--images", "5"], "--maps-only does not use the network; remove it, or images"),
        (["--check", "nowhere", "--export", "virelay"], "--check takes only --root and --json"),
        (["--check", "nowhere", "--root", "x"], "--root x: is not a root"),
        (["ATLAS", "--lineage-dir", "nowhere"], "has no commits"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(
    vitatlas, atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    before = sorted(Path(atlas.objects.url).rglob("*"))
    code, printed, said = vitatlas("audit", *(atlas.objects.url if each == "ATLAS" else each for each in arguments))
    assert (code, printed) == (2, "")
    assert says in said
    assert "Traceback" not in said
    assert sorted(Path(atlas.objects.url).rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["two.txt"]


@pytest.mark.parametrize("seed", soak_after(1, range(50)))
def test_a_signal_at_any_moment_ends_an_audit_and_its_processes(atlas: Atlas, tmp_path: Path, seed: int) -> None:
    arguments = ["audit", atlas.objects.url, "--out", str(tmp_path / "out"), "--methods", "legrad", "--maps-only"]
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as audit:
        # The fork server and what it forks.
        assert soon(lambda: len(alive_in_session(audit.pid)) > 1 or audit.poll() is not None)
        with suppress(subprocess.TimeoutExpired):
            audit.wait(Random(seed).uniform(0, 2 if seed < 25 else 8))
        audit.terminate()
        _, said = audit.communicate(timeout=120)
    assert audit.returncode in (75, 0), said
    assert "Traceback" not in said
    assert soon(lambda: not alive_in_session(audit.pid))
