"""Code in README and documentation is true: Python and SQL run, commands parse, YAML is what it says it is."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import duckdb
import pyarrow.parquet as pq
import pytest
import yaml
from docs.pages import ROOT, Block, blocks
from support import jpeg

from jobs.cli import cli
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.store import Atlas
from schemas.audit_records import PublicationRecord
from schemas.audit_tables import TABLES
from schemas.base import Record
from schemas.policy import Policy
from schemas.run import RunSpec

SPOKEN = {"python", "console", "yaml", "sql", "text", "", "json"}
"""Languages that a test below reads, and those that nothing is claimed of."""
RECORDS: dict[str, type[Record]] = {"threshold": Policy, "shards": RunSpec, "license": PublicationRecord}
"""What a mapping in YAML is, by a field that no other has."""
KUBERNETES = {"apiVersion", "patches", "resources"}
"""Fields that only its documents have; a list is a patch of one."""
HEREDOC = re.compile(r"^cat > (\S+) <<'?EOF'?\n(.*?)^EOF$", re.MULTILINE | re.DOTALL)


def each(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in blocks(*languages)])


@each()
def test_a_block_is_in_a_language_that_is_tested(block: Block) -> None:
    assert block.language in SPOKEN or block.language.startswith("{")


@each("python")
def test_python_runs(
    block: Block, atlas: Atlas, world: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = compile(block.text, block.name, "exec")
    if block.excuse:
        pytest.skip(block.excuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog.jpg").write_bytes(jpeg())
    (tmp_path / "demo").mkdir()
    for name, target in {"atlas": atlas.objects.url, "shards": world.folder / "shards", "truth": world.truth}.items():
        (tmp_path / "demo" / name).symlink_to(target)
    exec(code, {})


@each("sql")
def test_sql_runs_on_the_tables_of_an_audit(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for table in TABLES:
        file = tmp_path / table.files.replace("*", "part")
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.schema.empty_table(), file)
    duckdb.execute(block.text)


@each("console")
def test_commands_parse(block: Block) -> None:
    for file, text in HEREDOC.findall(block.text):
        check_yaml(text, f"{block.name}, {file}")
    for line in HEREDOC.sub("", block.text).replace("\\\n", " ").splitlines():
        check_command(line)


@each("yaml")
def test_yaml_is_a_record(block: Block) -> None:
    check_yaml(block.text, block.name)


def check_yaml(text: str, source: str) -> None:
    """A policy, a spec, what a publisher says, or of Kubernetes, where tests/k8s looks at what stands in ``k8s``."""
    for content in yaml.safe_load_all(text):
        if not isinstance(content, dict) or content.keys() & KUBERNETES:
            continue
        (record,) = (record for field, record in RECORDS.items() if field in content)
        record.read(content, source)


def check_command(line: str) -> None:
    """Check that a ``vitatlas`` command parses, and that make targets, modules and scripts exist."""
    words = shlex.split(line, comments=True)
    if "vitatlas" in words:
        parse(words[words.index("vitatlas") + 1 :])
    elif words[:1] == ["make"]:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif "-m" in words and words[words.index("-m") + 1].startswith(("pipeline.", "jobs.")):
        assert importlib.util.find_spec(words[words.index("-m") + 1])
    elif words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()


def parse(words: list[str]) -> None:
    """What click says of the arguments, without the command being run.

    Raises:
        click.UsageError: no such command, option or value, or one is missing.
    """
    ends = [place for place, word in enumerate(words) if word in ("|", ">", ">>", "&&", ";", "&")]
    words = words[: min(ends, default=None)]
    command: click.Command = cli
    context = None
    while True:
        try:
            context = command.make_context("vitatlas", list(words), parent=context)
        except click.exceptions.Exit:  # --help, --version
            return
        if not isinstance(command, click.Group):
            return
        _, inner, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert inner is not None
        command = inner


@pytest.mark.parametrize(
    "line",
    ["vitatlas run --no-such-flag", "vitatlas walk a.tar", "vitatlas score a.atlas", "vitatlas run a --actors many"],
)
def test_a_command_that_is_wrong_is_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        check_command(line)
