"""The whole job with shards and atlas in buckets, behind a network and a server that fail."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from s3.faults import Fault, Proxy, each
from support import FREE, Crash, samples

from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas, ObjectStore
from pipeline.store.verify import verify
from schemas.run import RunSpec

POLICY = "{name: largest, methods: [legrad], threshold: {kind: otsu}, postprocess: {keep: largest}}"


def contents(url: str | Path) -> dict[str, Any]:
    """All objects below a folder or URL; commit records but for when, where and how often."""
    objects = ObjectStore(str(url))
    names = [name for name, _ in objects.list_all()]
    found: dict[str, Any] = dict(zip(names, objects.read(names), strict=True))
    for name in names:
        if name.startswith("commits/"):
            record = json.loads(found[name])
            found[name] = {k: v for k, v in record.items() if k not in FREE}
    return found


def same_objects(first: str | Path, second: str | Path) -> None:
    one, other = contents(first), contents(second)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def flags(spec: RunSpec) -> list[object]:
    """A spec as the command line takes it."""
    given = ["--model", spec.model.name, "--checkpoint", spec.model.checkpoint, "--batch-size", spec.batch_size]
    return [*spec.shards, *given, "--methods", ",".join(spec.methods)]


@pytest.mark.soak
def test_the_whole_job_gives_the_same_bytes_in_a_bucket(
    vitatlas: Callable[..., tuple[int, str, str]],
    undisturbed: Path,
    remote: RunSpec,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = f"{bucket}/some/atlas"
    assert vitatlas("plan", *flags(remote), "--out", out)[0] == 0
    assert vitatlas("verify", out)[0] == 75
    code, text, _ = vitatlas("run", out, "--executor", "inline")
    assert (code, "complete 3 shards, 16 images with maps, 0 without" in text) == (0, True)
    same_objects(out, undisturbed)
    assert not [name for name, data in contents(out).items() if os.environ["AWS_SECRET_ACCESS_KEY"] in str(data)]
    assert vitatlas("verify", out)[0] == 0
    assert json.loads(vitatlas("status", out, "--json")[1])["shards"] == {"done": 3, "planned": 3}

    local = tmp_path / "atlas"
    shutil.copytree(undisturbed, local)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "truth.json").write_text(json.dumps(_truth()))
    scores = []
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for atlas in (out, local):  # the first masks are made by processes of their own
        code, text, err = vitatlas("label", atlas, "--policy", tmp_path / "policy.yaml")
        assert (code, err) == (0, "")
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
        code, text, err = vitatlas("score", atlas, "--truth", tmp_path / "truth.json", "--json")
        assert (code, err.partition(" ")[0]) == (0, "accuracy")
        scores.append(json.loads(text))
    assert scores[0] == scores[1]
    same_objects(out, local)
    here, there = Atlas.open(str(local)), Atlas.open(out)
    assert np.array_equal(here.maps("legrad").values, there.maps("legrad").values, equal_nan=True)
    assert np.array_equal(here.raw("s0007", "legrad"), there.raw("s0007", "legrad"))


def _truth() -> dict[str, Any]:
    names = [name for name, _ in samples(16) if name.endswith(".jpg")]
    images = [
        {"id": number, "file_name": name, "width": 40 + number % 7, "height": 30 + number % 5}
        for number, name in enumerate(names)
    ]
    boxes = [
        {"id": number + 1, "image_id": number, "category_id": 1, "bbox": [5, 5, 20, 15], "iscrowd": 0}
        for number in range(len(names))
    ]
    return {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}


@pytest.mark.parametrize(("rate", "below"), [pytest.param(0.04, "/", marks=pytest.mark.soak), (0.06, "/shards/")])
def test_a_faulty_way_to_the_server_changes_nothing(
    undisturbed: Path, remote: RunSpec, bucket: str, proxy: Proxy, rate: float, below: str
) -> None:
    proxy.fail(each(rate), below=below)
    plan(remote, f"{bucket}/atlas")
    run(f"{bucket}/atlas", INLINE)
    verdict = verify(Atlas.open(f"{bucket}/atlas"))
    assert (verdict.faults, verdict.missing) == ([], 0)
    assert len(proxy.injected) > 3
    proxy.heal()
    same_objects(f"{bucket}/atlas", undisturbed)


@pytest.mark.soak
def test_actors_do_not_mind_either(undisturbed: Path, remote: RunSpec, bucket: str, proxy: Proxy) -> None:
    """Real Ray of its own, whose actors find the server by the environment alone."""
    proxy.fail(each(0.02))
    command = [sys.executable, "-m", "jobs.cli", "run", *map(str, flags(remote)), "--out", f"{bucket}/atlas"]
    done = subprocess.run(
        [*command, "--address", "local", "--actors", "2"], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, "complete 3 shards, 16 images" in done.stdout) == (0, True), done.stderr
    assert proxy.injected.total() > 3
    proxy.heal()
    same_objects(f"{bucket}/atlas", undisturbed)


def test_a_server_that_only_fails_ends_the_run_and_the_same_command_goes_on(
    vitatlas: Callable[..., tuple[int, str, str]],
    undisturbed: Path,
    remote: RunSpec,
    bucket: str,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["run", *flags(remote), "--out", f"{bucket}/atlas", "--executor", "inline"]
    create = ObjectStore.create

    def then_no_more(self: ObjectStore, name: str, data: bytes) -> bool:
        created = create(self, name, data)
        if name.startswith("commits/"):
            proxy.fail({Fault.ERROR: 1.0})
        return created

    monkeypatch.setattr(ObjectStore, "create", then_no_more)
    code, _, err = vitatlas(*command)
    assert code == 1
    assert "Traceback" not in err
    assert re.search(r"6 times in \d+ s", err.splitlines()[-1])
    proxy.heal()
    monkeypatch.setattr(ObjectStore, "create", create)
    assert vitatlas("status", f"{bucket}/atlas")[1].startswith(f"{bucket}/atlas: 1 of 3 shards are done")
    assert vitatlas(*command)[0] == 0
    same_objects(f"{bucket}/atlas", undisturbed)


def test_a_server_that_fails_from_the_start(
    vitatlas: Callable[..., tuple[int, str, str]], remote: RunSpec, bucket: str, proxy: Proxy
) -> None:
    proxy.fail({Fault.BUSY: 1.0})
    for command in ("plan", "status", "verify"):
        arguments = [*flags(remote), "--out", f"{bucket}/atlas"] if command == "plan" else [f"{bucket}/atlas"]
        code, out, err = vitatlas(command, *arguments)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert re.search(r"(Service Unavailable|reduce your request rate\.), 6 times in \d+ s$", err)


@pytest.mark.soak
def test_a_crash_after_any_store_operation_is_mended_by_the_same_command(
    remote: RunSpec, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every k: crash when the k-th object was written or removed, start again, compare all bytes."""
    small = remote.model_copy(update={"shards": ("s3://shards/part-{0,2}.tar",), "methods": ("legrad",)})
    plan(small, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    left = 0

    def crashing(operation: Callable[..., Any]) -> Callable[..., Any]:
        def crash(*arguments: Any) -> Any:
            nonlocal left
            result = operation(*arguments)
            left -= 1
            if left == 0:
                raise Crash
            return result

        return crash

    for k in count(1):
        out = f"{bucket}/crash-{k}"
        with monkeypatch.context() as patch:
            for name in ("put", "create", "delete"):
                patch.setattr(ObjectStore, name, crashing(getattr(ObjectStore, name)))
            left = k
            try:
                plan(small, out)
                run(out, INLINE)
                break
            except Crash:
                pass
        plan(small, out)
        run(out, INLINE)
        same_objects(out, tmp_path / "atlas")
    assert k > 16  # metadata of one method, run.json, and 5 objects for each of 2 shards
