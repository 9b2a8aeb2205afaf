"""Failures of stores that speak HTTP: what may pass is tried again, what is refused is said once, in one sentence."""

from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support import samples, write_tar

from pipeline.utils import io
from pipeline.utils.io import is_transient, with_retries


class _Response:
    def __init__(self, status: int) -> None:
        self.status_code = status


def http_error(module: str, status: int, message: str = "refused\n\nsee https://host/page") -> Exception:
    """An error as clients of HTTP have it: an OSError without a number, whose message has several lines."""
    error = type("HfHubHTTPError", (OSError,), {"__module__": module})(message)
    error.response = _Response(status)
    return error


@pytest.mark.parametrize(
    ("status", "passes"),
    [(400, False), (401, False), (403, False), (404, False), (408, True), (429, True), (500, True), (503, True)],
)
def test_only_what_may_pass_is_tried_again(status: int, passes: bool) -> None:
    assert is_transient(http_error("huggingface_hub.errors", status)) is passes


@pytest.mark.parametrize("package", ["httpx", "httpx2", "httpcore", "requests.exceptions", "aiohttp.client"])
def test_a_network_that_is_away_may_come_back(package: str) -> None:
    error = type("ConnectError", (Exception,), {"__module__": package})("[Errno -2] Name or service not known")
    assert is_transient(error)


@pytest.mark.parametrize("status", [401, 403])
def test_what_is_refused_is_asked_for_once_and_says_how_to_get_it(status: int) -> None:
    calls = []

    def fail(path: str) -> None:
        calls.append(path)
        raise http_error("huggingface_hub.errors", status)

    with pytest.raises(PermissionError) as raised:
        with_retries(fail, "datasets/a/b/x.tar")
    assert calls == ["datasets/a/b/x.tar"]
    reason = "refused see https://host/page (HfHubHTTPError)"
    assert raised.value.strerror == f"{reason}; accept the terms of the repository on the Hub, and set HF_TOKEN"
    assert raised.value.filename == "datasets/a/b/x.tar"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[MemoryFileSystem]:
    """``hub://``: lists what is there, and fails when it is opened."""
    monkeypatch.setattr(io, "_MAX_WAIT", 0.01)
    monkeypatch.setattr(io, "_MAX_ATTEMPTS", 3)

    class Hub(MemoryFileSystem):
        protocol = "hub"
        error: Exception

        def info(self, path: str, **options: object) -> dict[str, object]:
            return {"name": path, "size": 10240, "type": "file"}

        def exists(self, path: str, **options: object) -> bool:
            return path.endswith(".tar")

        def open(self, path: str, *arguments: object, **options: object) -> None:
            raise self.error

    fsspec.register_implementation("hub", Hub, clobber=True)
    return Hub


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (http_error("huggingface_hub.errors", 403), "permission denied (refused see"),
        (type("ConnectError", (Exception,), {"__module__": "httpx"})("no route"), "no route (ConnectError), 3 times"),
    ],
)
def test_a_shard_that_cannot_be_had_is_one_sentence(
    vitatlas, checkpoint, hub: type[MemoryFileSystem], tmp_path: Path, error: Exception, sentence: str
) -> None:
    hub.error = error
    given = ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint, "--out", tmp_path / "atlas"]
    code, _, err = vitatlas("plan", "hub://a/x.tar", *given)
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith("vitatlas: hub://a/x.tar: ")
    assert sentence in err
    assert not (tmp_path / "atlas").exists()


def test_the_other_shards_are_planned(vitatlas, checkpoint, hub: type[MemoryFileSystem], tmp_path: Path) -> None:
    hub.error = http_error("huggingface_hub.errors", 403)
    shard = write_tar(tmp_path / "a.tar", samples(2))
    given = ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint, "--out", tmp_path / "atlas"]
    code, _, err = vitatlas("plan", "hub://a/x.tar", shard, *given)
    assert code == 0
    assert "hub://a/x.tar: permission denied (refused see" in err
