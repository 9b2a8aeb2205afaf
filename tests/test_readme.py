"""The README is true: its code runs, its table is the registry's, its links lead somewhere."""

import re
from pathlib import Path

import pytest
from support import jpeg

from pipeline.explain.catalogue import BEGIN, END, markdown
from pipeline.read.tar import IMAGES
from pipeline.store import Atlas
from schemas.labels import LABELS
from schemas.policy import Policy
from schemas.samples import SAMPLES, Status
from schemas.scores import LOCALIZATION

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_table_of_methods_is_the_registrys() -> None:
    assert README[README.index(BEGIN) : README.index(END) + len(END)] == markdown()


@pytest.mark.parametrize("code", PYTHON, ids=[code.split("\n")[0] for code in PYTHON])
def test_its_python_runs(code: str, atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog.jpg").write_bytes(jpeg())
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "atlas").symlink_to(atlas.objects.url)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_column_status_and_field_is_explained() -> None:
    page = (ROOT / "docs" / "reference" / "formats.md").read_text()
    names = [*SAMPLES.names, *LABELS.names, *LOCALIZATION.names, *Policy.model_fields, *map(str, Status), *IMAGES]
    assert [name for name in names if f"`{name}`" not in page] == []
