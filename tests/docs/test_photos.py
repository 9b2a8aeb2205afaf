"""The tutorial about photos does what it says: its commands are run as they stand on the page."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from docs.pages import ROOT, blocks
from docs.test_blocks import HEREDOC
from support import in_one_process

PAGE = ROOT / "docs" / "tutorials" / "photos.md"


def test_four_commands_lead_from_class_folders_to_a_table(
    vitatlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("docs", "pipeline"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    printed: dict[str, str] = {}
    with in_one_process():
        for block in blocks("console"):
            if block.page != PAGE:
                continue
            lines = HEREDOC.sub("", block.text).replace("\\\n", " ").splitlines()
            for file, text in HEREDOC.findall(block.text):
                Path(file).write_text(text)
            for words in filter(None, map(shlex.split, lines)):
                if words[0] == "python":
                    monkeypatch.setattr(sys, "argv", words[1:])
                    runpy.run_path(words[1], run_name="__main__")
                elif words[0] == "vitatlas":
                    code, out, err = vitatlas(*words[1:])
                    assert code == 0, err
                    printed[words[1]] = out + err
    assert list(printed) == ["pack", "run", "label", "score"]
    page = PAGE.read_text("utf-8")
    for command in ("pack", "run"):
        said = re.search(rf"```console\nvitatlas {command} .*?```text\n(.*?)```", page, re.DOTALL)
        assert said is not None
        for line in said[1].splitlines():
            assert line in printed[command]
    assert (tmp_path / "mine" / "photos" / "agate" / "008.jpg").exists()
    assert "\nzebrafish/000.jpg,47,18,140,109\n" in (tmp_path / "mine" / "boxes.csv").read_text()
    for name in ("attention", "legrad", "reciprocam", "center *", "MaxBoxAccV2", "GT-known"):
        assert name in printed["score"]
    assert len(json.loads((tmp_path / "mine" / "masks" / "coco" / "instances.json").read_text())["images"]) == 30
