"""``vitatlas extend``: a plan, the part, and what other commands tell about it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import samples, write_tar

from pipeline.store import Atlas
from schemas.layout import commit_object


@pytest.fixture
def copy(atlas: Atlas, tmp_path: Path) -> Path:
    return Path(shutil.copytree(atlas.objects.url, tmp_path / "copy"))


def test_extend_shows_its_plan_and_adds_methods(copy: Path, vitatlas: Any) -> None:
    before = sorted(copy.rglob("*"))
    code, out, _ = vitatlas("extend", copy, "--methods", "legrad,random,edges", "--dry-run")
    assert (code, sorted(copy.rglob("*"))) == (0, before)
    assert "present  legrad\nmethods  random, edges\n" in out
    assert f"maps     {48 * 2 * 2:,}, at most " in out
    code, out, _ = vitatlas("extend", copy, "--methods", "legrad,random,edges", "--executor", "inline")
    assert (code, out.splitlines()[-1].split(" maps of ")[1].split(", ")[-2:]) == (0, ["random", "edges"])
    code, out, _ = vitatlas("extend", copy, "--methods", "edges", "--dry-run", "--json")
    assert (code, json.loads(out)["present"], json.loads(out)["part"]) == (0, ["edges"], None)
    code, out, _ = vitatlas("extend", copy, "--methods", "edges", "--executor", "inline", "--json")
    assert json.loads(out)["methods"][-1] == "edges"
    assert vitatlas("verify", copy, "--recompute", "1")[0] == 0


def test_status_and_verify_tell_what_a_part_lacks(copy: Path, vitatlas: Any) -> None:
    assert vitatlas("extend", copy, "--methods", "edges", "--executor", "inline")[0] == 0
    (part,) = Atlas.open(str(copy)).parts
    (Path(part.objects.url) / commit_object("demo-validation-01")).unlink()
    code, out, _ = vitatlas("status", copy)
    assert code == 0
    assert "part     edges: 1 of 2 shards are done\n" in out
    assert f"resume with: vitatlas run {copy}" in out
    (described,) = json.loads(vitatlas("status", copy, "--json")[1])["parts"]
    assert described == {
        "folder": f"parts/{Path(part.objects.url).name}", "methods": ["edges"], "targets": ["label", "predicted"],
        "done": 1, "planned": 2, "quarantined": {},
    }  # fmt: skip
    assert vitatlas("verify", copy, "--recompute", "0")[0] == 75
    code, _, error = vitatlas("audit", copy, "--methods", "edges", "--images", "0")
    assert code == 2
    assert "edges is being added, 1 of 2 shards have its maps; finish it: vitatlas run" in error
    assert vitatlas("run", copy, "--executor", "inline")[0] == 0
    assert vitatlas("status", copy, "--watch")[0] == 0
    assert Atlas.open(str(copy)).methods[-1] == "edges"


def test_extend_appends_shards_and_verify_names_products_without_them(
    copy: Path, tmp_path: Path, vitatlas: Any
) -> None:
    (policy := tmp_path / "p.yaml").write_text("{name: p, methods: [legrad], threshold: {kind: otsu}}")
    assert vitatlas("label", copy, "--policy", policy, "--format", "png", "--out", copy / "labels" / "p")[0] == 0
    shard, before = write_tar(tmp_path / "new.tar", samples(3, 900)), sorted(copy.rglob("*"))
    code, out, _ = vitatlas("extend", copy, "--shards", shard, "--dry-run")
    assert (code, sorted(copy.rglob("*"))) == (0, before)
    assert "shards   1, from row 48\nimages   3\nmethods  " in out
    code, out, _ = vitatlas("extend", copy, "--shards", shard, "--executor", "inline", "--json")
    added = {"present": 0, "added": [str(shard)], "first_row": 48, "images": 3, "problems": {}}
    assert (code, json.loads(out)["shards"]) == (0, added)
    assert "3 of 3 shards are done" in vitatlas("status", copy)[1]
    code, out, _ = vitatlas("verify", copy, "--recompute", "1")
    assert code == 0
    assert f"product  {copy}/labels/p, it is of 2 shards only\n" in out
    code, out, _ = vitatlas("extend", copy, "--shards", shard, "--dry-run")
    assert (code, out.splitlines()[1:]) == (0, ["present  1 of these shards", "nothing is missing"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--methods", ""), "there is nothing to add; name methods with --methods"),
        (("--methods", "edges", "--cache", "s3://bucket"), "--cache s3://bucket: is a URL"),
        (("--methods", "edges", "--artifact", "nowhere"), "nowhere: "),
        (("--methods", "edges", "--shards", "a.tar"), "add others with a command of their own"),
        (("--shards", "nowhere.tar"), "nowhere.tar: no such shard"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(copy: Path, vitatlas: Any, options: Any, says: str) -> None:
    before = sorted(copy.rglob("*"))
    code, _, error = vitatlas("extend", copy, *options)
    assert (code, error.count("\n")) == (2, 1)
    assert says in error
    assert sorted(copy.rglob("*")) == before


def test_an_unfinished_atlas_is_extended_only_if_a_part_is_enough(copy: Path, vitatlas: Any) -> None:
    (copy / commit_object("demo-validation-01")).unlink()
    code, _, error = vitatlas("extend", copy, "--methods", "edges")
    assert code == 2
    assert "only 1 of 2 shards are done; finish it: vitatlas run" in error
    assert vitatlas("extend", copy, "--methods", "edges", "--partial", "--executor", "inline")[0] == 0
    assert Atlas.open(str(copy)).methods[-1] == "edges"
    assert vitatlas("run", copy, "--executor", "inline")[0] == 0
    opened = Atlas.open(str(copy))
    assert len(opened.shard_names) == len(opened.parts[0].shard_names) == 2
