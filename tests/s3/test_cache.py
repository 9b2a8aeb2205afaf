"""Copies of shards that lie in a bucket."""

from pathlib import Path

import pytest
import s3fs
from s3.faults import Fault, Proxy
from support import same_bytes

from pipeline.read import ShardCache
from pipeline.run import ExecutionOptions, run
from pipeline.run.plan import plan
from schemas.run import RunSpec


def asked(proxy: Proxy) -> list[tuple[str, str]]:
    """Requests for shards since the last time."""
    found = [(method, path) for method, path in proxy.requests if path.endswith(".tar")]
    proxy.requests.clear()
    return found


def test_a_second_run_fetches_no_tar_and_gives_the_same_bytes(
    remote: RunSpec, undisturbed: Path, proxy: Proxy, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        plan(remote, str(tmp_path / name))
        asked(proxy)
        run(str(tmp_path / name), ExecutionOptions("inline", cache=str(tmp_path / "copies")))
        same_bytes(undisturbed, tmp_path / name)
        fetched = [path for method, path in asked(proxy) if method == "GET"]
        assert len(fetched) == (3 if name == "first" else 0)


def test_a_network_that_fails_leaves_no_half_copy(bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    s3fs.S3FileSystem().pipe(f"{bucket}/a.tar", bytes(2**20))
    cache = ShardCache(str(tmp_path), 2**30)
    proxy.fail({Fault.CUT: 0.4, Fault.BUSY: 0.2}, seed=3, below=f"/{bucket.removeprefix('s3://')}")
    assert Path(cache.local_path(f"{bucket}/a.tar")).read_bytes() == bytes(2**20)
    assert proxy.injected.total() > 0
    s3fs.S3FileSystem().pipe(f"{bucket}/b.tar", b"b")
    proxy.fail({Fault.ERROR: 1.0})
    with pytest.raises(OSError, match="6 times in"):
        cache.local_path(f"{bucket}/b.tar")
    assert len(list(tmp_path.iterdir())) == 1
