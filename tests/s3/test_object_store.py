"""ObjectStore in a bucket: whole or not at all, one request each, and never out of a cache."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import fsspec
import pytest
from s3.faults import Fault, Proxy, each
from support import soak_after

from pipeline.store import ObjectStore
from pipeline.utils import io
from schemas.base import sha256
from schemas.errors import RunFailedError, UsageError


@pytest.fixture
def objects(bucket: str) -> ObjectStore:
    return ObjectStore(f"{bucket}/atlas")


def test_what_is_put_is_there(objects: ObjectStore) -> None:
    objects.put("a/b.bin", b"one")
    objects.put("a/b.bin", b"other")
    objects.put("a/c.bin", b"")
    assert objects.get("a/b.bin") == b"other"
    assert list(objects.read(["a/c.bin", "a/b.bin"])) == [b"", b"other"]
    assert objects.exists("a/c.bin")
    assert not objects.exists("a/d.bin")
    assert objects.list("a") == ["b.bin", "c.bin"]
    assert objects.list("nowhere") == []
    assert list(objects.list_all()) == [("a/b.bin", 5), ("a/c.bin", 0)]
    objects.delete("a/c.bin")
    objects.delete("a/c.bin")
    assert list(objects.list_all()) == [("a/b.bin", 5)]
    for call in (objects.get, lambda name: list(objects.read([name]))):
        with pytest.raises(FileNotFoundError):
            call("a/d.bin")


@pytest.mark.parametrize("local", [True, False])
def test_a_file_is_put_like_its_bytes(objects: ObjectStore, tmp_path: Path, local: bool) -> None:
    chosen = ObjectStore(str(tmp_path / "out")) if local else objects
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5000)
    record = chosen.put_file("a/b.bin", path)
    assert record == chosen.put("a/c.bin", path.read_bytes()).model_copy(update={"path": "a/b.bin"})
    assert chosen.get("a/b.bin") == path.read_bytes()
    assert list(chosen.list_all()) == [("a/b.bin", 1_280_000), ("a/c.bin", 1_280_000)]


def test_a_write_and_a_read_are_one_request_each(objects: ObjectStore, proxy: Proxy) -> None:
    objects.put("a.bin", b"before")
    proxy.heal()
    objects.put("a.bin", b"after" * 1_000_000)
    assert len(objects.get("a.bin")) == 5_000_000
    assert [method for method, _ in proxy.requests] == ["PUT", "GET"]


def test_of_many_that_create_one_wins(objects: ObjectStore) -> None:
    together = Barrier(8)

    def create(name: int) -> bool:
        together.wait()
        return objects.create("lease", f"of {name}".encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert objects.get("lease") == f"of {won.index(True)}".encode()


def test_who_created_knows_it_though_the_answer_was_lost(objects: ObjectStore, proxy: Proxy) -> None:
    names = [f"lease-{number}" for number in range(24)]
    proxy.fail({Fault.LOST: 0.3})
    assert all(objects.create(name, b"mine") for name in names)
    assert [method for method, _ in proxy.harmed].count("PUT") > 2
    proxy.heal()
    assert not any(objects.create(name, b"yours") for name in names)
    assert set(objects.read(names)) == {b"mine"}


def test_of_many_that_replace_one_wins(objects: ObjectStore) -> None:
    objects.put("lease", b"0")
    together, expected = Barrier(8), sha256(b"0")

    def replace(name: int) -> bool:
        together.wait()
        return objects.replace("lease", f"of {name}".encode(), expected)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(replace, range(8)))
    assert won.count(True) == 1
    assert objects.get("lease") == f"of {won.index(True)}".encode()
    assert not objects.replace("lease", None, expected)
    assert objects.replace("lease", None, sha256(objects.get("lease")))
    assert not objects.replace("lease", b"0", expected)
    assert list(objects.list_all()) == []


def test_who_replaced_knows_it_though_the_answer_was_lost(objects: ObjectStore, proxy: Proxy) -> None:
    names = [f"lease-{number}" for number in range(12)]
    for name in names:
        objects.put(name, b"before")
    proxy.fail({Fault.LOST: 0.3})
    assert all(objects.replace(name, b"mine", sha256(b"before")) for name in names)
    assert [method for method, _ in proxy.harmed].count("PUT") > 1
    proxy.heal()
    assert not any(objects.replace(name, b"yours", sha256(b"before")) for name in names)
    assert set(objects.read(names)) == {b"mine"}


@pytest.mark.parametrize("fault", soak_after(2, sorted(Fault)))
def test_each_fault_passes_unnoticed(objects: ObjectStore, proxy: Proxy, fault: Fault) -> None:
    objects.put("a/old.bin", b"old")
    proxy.fail({fault: 0.2}, seed=2)
    for number in range(4):
        name, data = f"a/{number}.bin", bytes([number]) * 1000
        objects.put(name, data)
        assert objects.get(name) == data
        assert objects.exists(name)
        assert len(objects.list("a")) == number + 2
        assert sum(size for _, size in objects.list_all()) == 3 + 1000 * (number + 1)
    objects.delete("a/old.bin")
    assert not objects.exists("a/old.bin")
    assert proxy.injected[fault] > 1


def test_what_another_process_writes_is_seen_at_once(objects: ObjectStore) -> None:
    objects.put("commits/a.json", b"a")
    assert objects.list("commits") == ["a.json"]
    assert list(objects.list_all()) == [("commits/a.json", 1)]
    assert not objects.exists("commits/b.json")
    script = f"""
from pipeline.store import ObjectStore
objects = ObjectStore({objects.url!r})
objects.put("commits/a.json", b"another")
objects.put("commits/b.json", b"b")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert objects.exists("commits/b.json")
    assert objects.get("commits/a.json") == b"another"
    assert objects.get("commits/b.json") == b"b"
    assert objects.list("commits") == ["a.json", "b.json"]
    assert list(objects.list_all()) == [("commits/a.json", 7), ("commits/b.json", 1)]


@pytest.mark.parametrize("fault", soak_after(1, [Fault.ERROR, Fault.BUSY, Fault.SILENCE, Fault.REFUSED]))
def test_a_server_that_is_gone_is_given_up(
    objects: ObjectStore, proxy: Proxy, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "_MAX_SECONDS", 1.0)
    proxy.fail({fault: 1.0})
    with pytest.raises(OSError, match=r"a\.bin") as raised:
        objects.get("a.bin")
    assert raised.value.__cause__ is not None
    assert len(proxy.requests) <= 2 * io._MAX_ATTEMPTS  # aiohttp may repeat what was dropped; nothing else multiplies
    with pytest.raises(OSError, match=r"b\.bin"):
        objects.put("b.bin", b"")
    proxy.heal()
    assert list(objects.list_all()) == []


def test_no_credentials_is_a_users_mistake(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for call in (ObjectStore(objects.url).get, lambda name: ObjectStore(objects.url).put(name, b"")):
        with pytest.raises(UsageError, match=r"credentials.*docs/howto/storage.md"):
            call("a.bin")


def test_an_endpoint_without_a_scheme_is_a_users_mistake(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(UsageError, match=r"Invalid endpoint: localhost:9000; see docs/howto/storage.md"):
        ObjectStore("s3://bucket/atlas").get("a.bin")


def test_a_bucket_that_is_not_there(proxy: Proxy) -> None:
    objects = ObjectStore("s3://no-such-bucket/atlas")
    assert not objects.exists("a.bin")
    with pytest.raises(FileNotFoundError):
        objects.get("a.bin")
    with pytest.raises(RunFailedError, match=r"cannot write a\.bin"):
        objects.put("a.bin", b"")
    assert len(proxy.requests) < 10


def test_faults_are_the_same_for_the_same_seed(proxy: Proxy) -> None:
    def draws(seed: int) -> list[Fault | None]:
        proxy.fail(each(0.1), seed)
        return [proxy.draw("GET", "/a") for _ in range(50)]

    assert draws(1) == draws(1) != draws(2)
    assert set(draws(1)) == {None, *Fault}
