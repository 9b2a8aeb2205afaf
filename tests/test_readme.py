"""The README is true: its code runs, its table is the registry's, its links lead somewhere."""

import re
from pathlib import Path

import pytest

from pipeline.explain.catalogue import BEGIN, END, markdown
from pipeline.store import Atlas

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_table_of_methods_is_the_registrys() -> None:
    assert README[README.index(BEGIN) : README.index(END) + len(END)] == markdown()


@pytest.mark.parametrize("code", PYTHON, ids=[code.split("\n")[0] for code in PYTHON])
def test_its_python_runs(code: str, atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "atlas").symlink_to(atlas.objects.url)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
