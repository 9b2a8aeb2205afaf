"""Patterns to shards, and how many samples each holds."""

import json
from pathlib import Path

import fsspec
import pytest
from support import samples, write_tar

from pipeline.read import count_samples, expand_shards, resolve_pattern
from schemas.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        write_tar(tmp_path / f"t-{index:02d}.tar", samples(index + 1))
    return tmp_path


def names(urls: tuple[str, ...]) -> list[str]:
    return [url.rpartition("/")[2] for url in urls]


ALL = ["t-00.tar", "t-01.tar", "t-02.tar"]


@pytest.mark.parametrize("pattern", ["t-{00..02}.tar", "t-*.tar", "t-0[0-2].tar"])
def test_patterns_under_a_root(folder: Path, pattern: str) -> None:
    assert names(expand_shards([resolve_pattern(pattern, str(folder))])) == ALL
    assert names(expand_shards([f"{folder}/{pattern}"])) == ALL


def test_relative_paths_become_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert resolve_pattern(f"{folder.name}/t-01.tar") == str(folder / "t-01.tar")
    assert resolve_pattern("t-01.tar", folder.name) == str(folder / "t-01.tar")
    assert resolve_pattern("t.tar", "s3://bucket/x/") == "s3://bucket/x/t.tar"
    assert resolve_pattern("/a/t.tar", "s3://bucket") == "/a/t.tar"


def test_a_list_of_shards_is_a_text_file_relative_to_its_own_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = folder / "lists"
    lists.mkdir()
    (lists / "shards.txt").write_text(f"\ufeff../t-00.tar\r\n\n {folder}/t-{{01..02}}.tar \n", "utf-8")
    monkeypatch.chdir(folder)
    assert resolve_pattern("@shards.txt", "lists") == f"@{lists}/shards.txt"
    assert names(expand_shards([resolve_pattern("@lists/shards.txt")])) == ALL
    with pytest.raises(UsageError, match=r"t-00.tar: is named twice"):
        expand_shards(["@lists/shards.txt", str(folder / "t-00.tar")])
    write_tar(folder / "@t.tar", samples(1))
    assert names(expand_shards(["@t.tar"])) == ["@t.tar"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such list of shards"),
        (b"\n \n", "names no shard; write one a line"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"pipe:cat x", "runs a shell command"),
        (b"no.tar", "no such shard"),
    ],
)
def test_what_is_wrong_in_a_list_is_named(folder: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (folder / "list.txt").write_bytes(content)
    with pytest.raises(UsageError, match=says):
        expand_shards([f"@{folder}/list.txt"])


def test_every_part_of_a_joined_pattern_becomes_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    joined = resolve_pattern("t-00.tar::t-0[12].tar")
    assert joined == f"{folder}/t-00.tar::{folder}/t-0[12].tar"
    monkeypatch.chdir(folder.parent)
    assert names(expand_shards([joined])) == ALL
    assert resolve_pattern("a.tar::/b.tar::s3://c/d.tar", "s3://bucket") == "s3://bucket/a.tar::/b.tar::s3://c/d.tar"
    assert resolve_pattern("pipe:curl a::b") == "pipe:curl a::b"
    write_tar(folder / "x::y.tar", samples(1))
    path = resolve_pattern("x::y.tar", str(folder))
    assert expand_shards([path]) == (f"{folder}/x::y.tar",)


@pytest.mark.parametrize("name", ["[1]", "a[bc]d", "what?", "star*"])
def test_a_folder_of_that_very_name_is_meant(tmp_path: Path, name: str) -> None:
    for inner in (name, "1", "abd", "whats", "starry"):
        write_tar(tmp_path / inner / "s-0.tar", samples(1))
    assert expand_shards([f"{tmp_path}/{name}/s-*.tar"]) == (f"{tmp_path}/{name}/s-0.tar",)
    assert expand_shards([f"{tmp_path}/{name}/s-{{0..0}}.tar"]) == (f"{tmp_path}/{name}/s-0.tar",)


def test_brackets_that_match_nothing_are_explained_and_can_be_escaped(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s[1]-0.tar", samples(1))
    with pytest.raises(UsageError, match=r"no shard matches; in a pattern .* \[\[\] is a bracket"):
        expand_shards([f"{tmp_path}/s[1]-*.tar"])
    assert expand_shards([f"{tmp_path}/s[[]1]-*.tar"]) == (str(path),)


def test_tars_on_any_file_system(folder: Path) -> None:
    files = fsspec.filesystem("memory")
    for name in ALL:
        files.pipe_file(f"/bucket/{name}", (folder / name).read_bytes())
    urls = expand_shards(["memory://bucket/t-{00..02}.tar"])
    assert [(each.name, each.samples, each.fault) for each in count_samples(urls)] == [
        ("t-00", 1, None), ("t-01", 2, None), ("t-02", 3, None)
    ]  # fmt: skip
    assert (
        names(expand_shards(["memory://bucket/*.tar"]))
        == names(expand_shards([resolve_pattern("*.tar", "memory://bucket")]))
        == ALL
    )
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (["t-{00..03}.tar"], "t-03.tar: no such shard"),
        (["x*.tar"], r"x\*.tar: no shard matches"),
        (["."], "is a folder; name its shards"),
        (["t-00.tar", "t-*.tar"], "t-00.tar: is named twice"),
        (["pipe:cat t-00.tar"], "runs a shell command; pass --allow-pipe"),
        (["nosuch://x/a.tar"], "nosuch"),
        (["t-{00..02.tar"], "its braces do not match"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, patterns: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        expand_shards([resolve_pattern(pattern, str(folder)) for pattern in patterns])


@pytest.mark.parametrize("name", ["br[1].tar", "cur{a,b}.tar", "star*.tar", "a b.tar"])
def test_a_file_of_that_very_name_is_meant(tmp_path: Path, name: str) -> None:
    path = str(write_tar(tmp_path / name, samples(1)))
    assert expand_shards([path]) == (path,)


def info(folder: Path, names: list[str], lengths: list[int]) -> None:
    split = {"name": "x", "filenames": names, "shard_lengths": lengths, "num_samples": sum(lengths)}
    (folder / "_info.json").write_text(json.dumps({"splits": {"x": split}}))


def test_counts_are_taken_from_info_json_and_the_rest_is_scanned(folder: Path) -> None:
    info(folder, ALL[:2], [4, 5])
    assert [each.samples for each in count_samples(expand_shards([resolve_pattern("t-*.tar", str(folder))]))] == [
        4,
        5,
        3,
    ]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "[" * 100_000,
        "{}",
        '{"splits": {"x": {"filenames": ["t-01.tar"], "shard_lengths": []}}}',
        '{"splits": {"x": {"filenames": ["t-01.tar"], "shard_lengths": [3.7]}}}',
        '{"splits": ["train", "val"]}',
        '{"splits": {"train": {"num_examples": 3}}}',
        '{"splits": {"x": {"filenames": ["other.tar"], "shard_lengths": [9]}}}',
    ],
    ids=range(9),
)
def test_of_an_info_json_of_other_software_the_headers_are_counted_instead(folder: Path, content: str) -> None:
    (folder / "_info.json").write_text(content)
    (only,) = count_samples(expand_shards([resolve_pattern("t-01.tar", str(folder))]))
    assert (only.samples, only.fault) == (2, None)


@pytest.mark.parametrize(("length", "says"), [(10**12, "more than its 10240 bytes can hold"), (-3, "-3")])
def test_counts_that_cannot_be_are_a_problem_of_the_tar(folder: Path, length: int, says: str) -> None:
    info(folder, ALL[:1], [length])
    (only,) = count_samples(expand_shards([resolve_pattern("t-00.tar", str(folder))]))
    assert says in only.fault


def test_short_names_are_unique_and_safe(tmp_path: Path) -> None:
    paths = ["a/x.tar", "b/x.tar", "c/..y z.tar", "c/ünï.tar.gz", "c/p-0.1.tar", "c/p-0.2.tar"]
    for path in paths:
        write_tar(tmp_path / path, samples(1))
    short = [each.name for each in count_samples(tuple(str(tmp_path / path) for path in paths))]
    assert short == ["x.0", "x.1", "_.y_z", "_n_", "p-0.1", "p-0.2"]


def test_many_tars_are_counted_in_processes_and_in_order(tmp_path: Path) -> None:
    for index in range(20):
        write_tar(tmp_path / f"m-{index:02d}.tar", samples(index % 4 + 1))
    done: list[int] = []
    records = count_samples(expand_shards([resolve_pattern("m-*.tar", str(tmp_path))]), done.append)
    assert [each.samples for each in records] == [index % 4 + 1 for index in range(20)]
    assert done == list(range(1, 21))


def test_the_good_front_of_a_tar_is_kept_whatever_info_json_says(folder: Path) -> None:
    info(folder, ALL, [1, 2, 3])
    path = folder / "t-02.tar"
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"s0002.jpg") + 600])
    urls = expand_shards([resolve_pattern("t-*.tar", str(folder))])
    assert [(each.samples, each.partial) for each in count_samples(urls)] == [(1, False), (2, False), (3, False)]
    found = count_samples(urls, keep_partial=True)
    assert [(each.samples, each.fault, each.partial) for each in found] == [
        (1, None, False), (2, None, False), (2, "it is truncated", True)
    ]  # fmt: skip
    path.write_bytes(b"nothing of it is left")
    assert [each.partial for each in count_samples(urls, keep_partial=True)] == [False, False, False]


def test_short_names_are_unique_whatever_the_tars_are_called(tmp_path: Path) -> None:
    urls = [str(write_tar(tmp_path / name, samples(1))) for name in ("a/x.tar", "b/x.tar", "c/x.0.tar", "d/X.tar")]
    names = [record.name for record in count_samples(urls)]
    assert len({name.lower() for name in names}) == 4
    assert names[2] == "x.0"


def test_a_store_is_asked_once_for_each_tar_and_once_more_for_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    names = [f"{number}.tar" for number in range(5)]
    splits = {"all": {"filenames": names, "shard_lengths": [1] * 5}}
    files.pipe({f"/asked/{name}": bytes(10240) for name in names})
    files.pipe("/asked/_info.json", json.dumps({"splits": splits}).encode())
    asked: list[str] = []
    info = type(files).info
    monkeypatch.setattr(type(files), "info", lambda self, path, **o: asked.append(path) or info(self, path, **o))
    records = count_samples(expand_shards(["memory://asked/{0..4}.tar"]))
    assert [record.samples for record in records] == [1] * 5
    assert sorted(path for path in asked if path.endswith(".tar")) == sorted(f"/asked/{name}" for name in names * 2)
    files.rm("/asked", recursive=True)
