"""One byte of a published folder differs, and the object is named."""

from pathlib import Path

import pytest
from support import copy_atlas

from pipeline.audit.publication.manifest import merkle_root, verify_manifest, write_manifest
from pipeline.store import Atlas, ObjectStore
from schemas.audit_records import MANIFEST
from schemas.base import sha256
from schemas.commits import ObjectRecord
from schemas.errors import UsageError


@pytest.fixture
def published(atlas: Atlas, tmp_path: Path) -> Path:
    """An atlas with something derived, published."""
    folder = copy_atlas(atlas.objects.url, tmp_path / "atlas")
    (folder / "labels" / "otsu").mkdir(parents=True)
    (folder / "labels" / "otsu" / "a b’s <img>.png").write_bytes(b"not a picture")
    (folder / "labels" / "empty").write_bytes(b"")
    write_manifest(str(folder))
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_published_folder_is_as_it_was_published_and_stays_so_when_published_again(published: Path) -> None:
    assert verify_manifest(str(published)) == []
    before = (published / MANIFEST).read_bytes()
    write_manifest(str(published))
    assert (published / MANIFEST).read_bytes() == before
    assert "lease.json" not in files(published)


def test_a_flipped_byte_of_any_object_names_it(published: Path) -> None:
    names = [name for name in files(published) if (published / name).stat().st_size]
    assert len(names) > 20
    for number, name in enumerate(names):
        path = published / name
        original = path.read_bytes()
        place = (number * 7919) % len(original)
        path.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        assert [fault.split(":")[0] for fault in verify_manifest(str(published))] == [name]
        path.write_bytes(original)
    assert verify_manifest(str(published)) == []


def test_a_flipped_byte_anywhere_in_the_manifest_names_it(published: Path) -> None:
    path = published / MANIFEST
    original = path.read_bytes()
    for place in range(0, len(original), 97):
        path.write_bytes(original[:place] + bytes([original[place] ^ 4]) + original[place + 1 :])
        assert [fault.split(":")[0] for fault in verify_manifest(str(published))] == [MANIFEST], place


def test_what_is_missing_longer_and_extra_is_named(published: Path) -> None:
    (published / "run.json").unlink()
    with (published / "labels" / "empty").open("ab") as stream:
        stream.write(b"x")
    (published / "labels" / ".hidden").write_text("")
    faults = verify_manifest(str(published))
    assert sorted(fault.split(":")[0] for fault in faults) == ["labels/.hidden", "labels/empty", "run.json"]
    assert any("is missing" in fault for fault in faults)
    assert any("has 1 bytes, but 0 were published" in fault for fault in faults)
    assert any("was not published" in fault for fault in faults)


def test_another_root_than_the_one_that_was_told_is_refused(published: Path) -> None:
    told = write_manifest(str(published)).root
    assert verify_manifest(str(published), told) == []
    (published / "run.json").write_bytes(b"{}")
    write_manifest(str(published))
    assert verify_manifest(str(published)) == []
    assert [fault.split(":")[0] for fault in verify_manifest(str(published), told)] == [MANIFEST]


def test_what_was_never_published_or_is_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest\.json"):
        verify_manifest(str(tmp_path))
    with pytest.raises(UsageError, match="holds nothing"):
        write_manifest(str(tmp_path))


def entry(number: int) -> ObjectRecord:
    return ObjectRecord(path=f"{number}", size=number, sha256=sha256(bytes([number])))


def test_the_root_is_the_tree_of_rfc_6962_whatever_the_count() -> None:
    def node(first: str, second: str) -> str:
        return sha256(b"\1" + bytes.fromhex(first[7:]) + bytes.fromhex(second[7:]))

    leaves = [sha256(b"\0" + f"{each.sha256} {each.size} {each.path}".encode()) for each in map(entry, range(5))]
    assert merkle_root([]) == sha256(b"")
    assert merkle_root([entry(0)]) == leaves[0]
    assert merkle_root([entry(n) for n in range(3)]) == node(node(leaves[0], leaves[1]), leaves[2])
    four = node(node(leaves[0], leaves[1]), node(leaves[2], leaves[3]))
    assert merkle_root([entry(n) for n in range(5)]) == node(four, leaves[4])


@pytest.mark.parametrize("count", [2, 3, 7, 8])
def test_the_root_depends_on_every_field_and_on_the_order(count: int) -> None:
    entries = [entry(number) for number in range(count)]
    roots = {merkle_root(entries), merkle_root(entries[::-1])}
    for place in range(count):
        for change in ({"path": "x"}, {"size": 999}, {"sha256": sha256(b"x")}):
            roots.add(merkle_root([*entries[:place], entries[place].model_copy(update=change), *entries[place + 1 :]]))
    assert len(roots) == 2 + 3 * count


def test_a_folder_in_a_bucket_is_published_alike() -> None:
    objects = ObjectStore("memory://published")
    objects.put("a/b", b"1")
    write_manifest(objects.url)
    assert verify_manifest(objects.url) == []
    objects.put("a/b", b"2")
    assert verify_manifest(objects.url) == ["a/b: its contents have changed since they were published"]
