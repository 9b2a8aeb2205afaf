"""A real S3 server in its own process, a proxy before it that can fail, and an empty bucket for each test."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
from zlib import crc32

import fsspec
import pytest
import s3fs
from s3.faults import Proxy
from support import FAST, samples, write_tar

from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.utils import io
from schemas.run import ModelSpec, RunSpec

_TIMEOUTS = {"connect_timeout": 2, "read_timeout": 0.3}
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "known to the environment alone",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",  # botocore waits for seconds between its own
    "FSSPEC_S3_CONFIG_KWARGS": json.dumps(_TIMEOUTS),
}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an S3 server that other processes can reach as well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            assert process.poll() is None, log.read_text()
            try:
                urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except URLError:
                time.sleep(0.1)
        else:
            raise AssertionError(log.read_text())
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def _proxy(server: str) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.close()


@contextmanager
def _reached(proxy: Proxy) -> Iterator[None]:
    """The environment in which this process, and those it starts, find the server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**_ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url}.items():
            patch.setenv(name, value)
        # fsspec looks at the environment once, when it is imported.
        patch.setitem(fsspec.config.conf, "s3", {"config_kwargs": _TIMEOUTS})
        patch.setattr(io, "_MAX_WAIT", 0.05)
        s3fs.S3FileSystem.clear_instance_cache()
        proxy.heal()
        yield
        proxy.heal()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def proxy(_proxy: Proxy) -> Iterator[Proxy]:
    """The way to the server, without faults yet."""
    with _reached(_proxy):
        yield _proxy


@pytest.fixture
def bucket(proxy: Proxy, request: pytest.FixtureRequest) -> str:
    """URL of an empty bucket. Its name is that of the test, since faults depend on it."""
    name = f"bucket-{crc32(request.node.nodeid.encode())}"
    s3fs.S3FileSystem().mkdir(name)
    proxy.heal()
    return f"s3://{name}"


@pytest.fixture(scope="session")
def shards(_proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three shards of 5, 7 and 4 samples in a bucket; a brace pattern."""
    folder = tmp_path_factory.mktemp("shards")
    for index, number in enumerate((5, 7, 4)):
        write_tar(folder / f"part-{index}.tar", samples(number, (0, 5, 12)[index]))
    with _reached(_proxy):
        s3fs.S3FileSystem().mkdir("shards")
        s3fs.S3FileSystem().put(f"{folder}/*.tar", "shards/")
    return "s3://shards/part-{0..2}.tar"


@pytest.fixture(scope="session")
def remote(shards: str, checkpoint: ModelSpec) -> RunSpec:
    """A run over those shards."""
    return RunSpec(shards=(shards,), model=checkpoint, methods=FAST, batch_size=4)


@pytest.fixture(scope="session")
def undisturbed(remote: RunSpec, _proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas of that run in a folder, made without any fault."""
    out = tmp_path_factory.mktemp("undisturbed") / "atlas"
    with _reached(_proxy):
        plan(remote, str(out))
        run(str(out), INLINE)
    return out
