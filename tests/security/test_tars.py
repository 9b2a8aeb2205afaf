"""Shards of strangers: nothing in them runs, and no name in them leads anywhere."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from support import jpeg, write_tar

from pipeline.store import Atlas
from schemas.run import ModelSpec

Vitatlas = Callable[..., tuple[int, str, str]]

UNSAFE = ["../../climbing", "/tmp/absolute", "a/../../b", "a\\windows", "C:\\windows"]
ODD = ["\x1b[31mred\x1b]0;title\x07", "[bold red]markup[/]", "<b>html</b>", "l" * 300, "{0}", "%s%n", "-rf", "$(id)"]


def explained(vitatlas: Vitatlas, shard: Path, checkpoint: ModelSpec, out: Path, *more: object) -> tuple[int, str, str]:
    given = [
        "--model",
        "test_vit",
        "--checkpoint",
        checkpoint.checkpoint,
        "--methods",
        "legrad",
        "--executor",
        "inline",
    ]
    return vitatlas("run", shard, "--out", out, *given, *more)


def test_members_that_would_run_are_never_opened(
    vitatlas: Vitatlas, checkpoint: ModelSpec, inside: Path, bomb: bytes
) -> None:
    objects, weights = io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([1, None], object), allow_pickle=True)
    torch.save({"a": torch.zeros(1)}, weights)
    code = b"raise SystemExit('it ran')"
    members = []
    for number in range(3):
        members += [(f"s{number}.jpg", jpeg(number)), (f"s{number}.cls", b"1")]
        members += [(f"s{number}.{kind}", bomb) for kind in ("pkl", "pickle", "pyd", "pth", "pt", "ckpt", "joblib")]
        members += [(f"s{number}.npy", objects.getvalue()), (f"s{number}.npz", weights.getvalue())]
        members += [(f"s{number}.{kind}", code) for kind in ("py", "so", "dll", "sh", "exe")]
        members += [(f"s{number}.yaml", b"!!python/object/apply:os.system ['touch marker']")]
        members += [(f"s{number}.json", b"[" * 100_000), (f"s{number}.txt", b"\xff"), (f"s{number}.cbor", b"\xff")]
    shard = write_tar(inside / "a.tar", members)
    code, text, _ = explained(vitatlas, shard, checkpoint, inside / "atlas")
    assert (code, "3 images with maps, 0 without" in text) == (0, True)


def test_no_key_becomes_a_path(vitatlas: Vitatlas, checkpoint: ModelSpec, inside: Path) -> None:
    members = [(f"{key}{end}", data) for key in UNSAFE + ODD for end, data in ((".jpg", jpeg()), (".cls", b"1"))]
    shard = write_tar(inside / "a.tar", members)
    assert explained(vitatlas, shard, checkpoint, inside / "atlas")[0] == 0
    rows = {row["key"]: row["status"] for row in Atlas.open(str(inside / "atlas")).samples().to_pylist()}
    assert {key: status for key, status in rows.items() if status != "ok"} == dict.fromkeys(UNSAFE, "unsafe_key")
    assert rows.keys() == {*UNSAFE, *ODD}

    (inside / "policy.yaml").write_text("{name: a, methods: [legrad], threshold: {kind: otsu}}")
    assert vitatlas("label", inside / "atlas", "--policy", inside / "policy.yaml", "--out", inside / "masks")[0] == 0
    with tarfile.open(inside / "masks" / "png" / "a.tar") as masks:
        names = masks.getnames()
        short = [member for member in masks.getmembers() if len(member.name) < 255]
        masks.extractall(inside / "unpacked", short, filter="fully_trusted")
    assert len(names) == 2 * len(ODD)
    for name in names:
        assert not PurePosixPath(name).is_absolute()
        assert ".." not in PurePosixPath(name).parts


def test_a_key_with_a_nul_is_a_row_of_its_own(vitatlas: Vitatlas, checkpoint: ModelSpec, inside: Path) -> None:
    """A pax header may hold what a plain one cannot."""
    with tarfile.open(inside / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("plain.jpg", jpeg()), ("plain.cls", b"1"), ("a\0b.jpg", jpeg()), ("a\0b.cls", b"1")):
            member = tarfile.TarInfo("x.jpg" if "\0" in name else name)
            member.size, member.pax_headers = len(data), {"path": name}
            archive.addfile(member, io.BytesIO(data))
    assert explained(vitatlas, inside / "a.tar", checkpoint, inside / "atlas")[0] == 0
    statuses = Atlas.open(str(inside / "atlas")).commits["a"].statuses
    assert statuses == {"ok": 1, "unsafe_key": 1}


def test_a_shard_that_is_a_command_does_not_run(
    vitatlas: Vitatlas, checkpoint: ModelSpec, inside: Path, outside: Path
) -> None:
    command = f"pipe:touch {outside}/marker"
    code, _, err = explained(vitatlas, command, checkpoint, inside / "atlas")  # type: ignore[arg-type]
    assert (code, "runs a shell command; pass --allow-pipe" in err) == (2, True)
    spec = {"shards": [command], "model": {"name": "test_vit", "checkpoint": checkpoint.checkpoint}}
    (inside / "spec.yaml").write_text(json.dumps(spec))
    code, _, err = vitatlas("plan", "--spec", inside / "spec.yaml", "--out", inside / "atlas")
    assert (code, "runs a shell command" in err) == (2, True)


@pytest.mark.parametrize(
    "name",
    [
        "$(touch marker).tar",
        "; touch marker;.tar",
        "`touch marker`.tar",
        "a b\n.tar",
        "-rf.tar",
        ".hidden.tar",
        "..tar",
    ],
)
def test_the_name_of_a_shard_is_only_a_name(
    vitatlas: Vitatlas, checkpoint: ModelSpec, inside: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(inside)
    shard = write_tar(inside / name, [("a.jpg", jpeg()), ("a.cls", b"1")])
    assert explained(vitatlas, shard, checkpoint, inside / "atlas")[0] == 0
    (shard_name,) = Atlas.open(str(inside / "atlas")).commits
    assert (inside / "atlas" / "commits" / f"{shard_name}.json").is_file()
    assert not (inside / "marker").exists()
    assert not shard_name.startswith(".")


@pytest.mark.parametrize(
    "info",
    [
        {"splits": {"train": {"filenames": ["../../secret.tar", "/etc/passwd"], "shard_lengths": [1, 2]}}},
        {"splits": {"../..": {"filenames": ["a.tar"], "shard_lengths": [1]}}},
        {"splits": {"train": {"filenames": ["a.tar"], "shard_lengths": [-1]}}},
        {"splits": {"train": {"filenames": ["a.tar"], "shard_lengths": [10**30]}}},
        {"splits": {"train": {"filenames": [["a.tar"]], "shard_lengths": [1]}}},
        {"splits": {"train": {"filenames": ["a.tar"], "shard_lengths": ["__import__('os')"]}}},
    ],
)
def test_an_info_file_names_nothing_but_numbers(
    vitatlas: Vitatlas, checkpoint: ModelSpec, inside: Path, info: dict[str, object]
) -> None:
    write_tar(inside / "a.tar", [("a.jpg", jpeg()), ("a.cls", b"1")])
    (inside / "_info.json").write_text(json.dumps(info))
    code, _, err = explained(vitatlas, inside / "a.tar", checkpoint, inside / "atlas")
    assert code in (0, 1, 2)
    assert "Traceback" not in err
    if (inside / "atlas").exists():
        assert [shard.url for shard in Atlas.open(str(inside / "atlas")).run.shards] == [str(inside / "a.tar")]
