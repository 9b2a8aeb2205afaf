"""Credentials in URLs are refused, and shown nowhere."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from pipeline.utils import io
from pipeline.utils.io import url_to_fs, with_retries
from pipeline.utils.redaction import redact, refuse_credentials
from schemas.errors import UsageError
from schemas.run import ModelSpec

SECRET = "hunter2/XyZ"
CARRYING = [
    "s3://AKIAIOSFODNN7EXAMPLE:{}@bucket/x.tar",
    "https://me:hunter2XyZ@host/x.tar",
    "https://:hunter2XyZ@host/x.tar",
    "simplecache::https://me:hunter2XyZ@host/x.tar",
    "https://bucket.host/x.tar?X-Amz-Algorithm=AWS4&X-Amz-Credential=me%2F2024&X-Amz-Signature={}",
    "https://bucket.host/x.tar?AWSAccessKeyId=me&Signature={}&Expires=1",
    "https://host/b/x.tar?X-Goog-Signature={}",
    "https://host/c/x.tar?sv=2020&sig={}&se=2030",
    "https://host/x.tar?token={}",
    "https://host/x.tar?a=1&access_token={}",
    "https://host/x.tar?api_key={}",
    "pipe:curl -H 'Authorization: Bearer {}' https://host/x.tar",
    'pipe:curl -H "authorization: {}" https://host/x.tar',
    "pipe:curl -H 'X-Auth-Token: {}' https://host/x.tar",
    "pipe:curl -u me:{} https://host/x.tar",
    "pipe:curl -sfume:{} https://host/x.tar",
    "pipe:curl --user=me:{} https://host/x.tar",
    "pipe:curl https://me:hunter2XyZ@host/x.tar",
    "pipe:wget --password {} https://host/x.tar",
    "pipe:wget --http-password={} https://host/x.tar",
    "pipe:AWS_SECRET_ACCESS_KEY={} aws s3 cp s3://bucket/x.tar -",
    "pipe:cat a; aws_secret_access_key={} b",
]
INNOCENT = [
    "s3://bucket/train-{0000..1023}.tar",
    "/data/token=abc/x.tar",
    "s3://bucket/secret=1/AKIAsomething.tar",
    "abfs://container@account.host/x.tar",
    "sftp://me@host:22/x.tar",
    "http://[::1]:9000/x.tar",
    "https://host:8080/x.tar?versionId=12&design=1&tokenizer=2",
    'pipe:curl -H "Authorization: Bearer $TOKEN" https://host/x.tar',
    "pipe:curl -u me:$PASSWORD https://me:$PASSWORD@host/x.tar",
    'pipe:wget --password "$PASSWORD" https://host/x.tar',
    "pipe:SECRET=$SECRET cat -u a:b.tar",
    "C:\\data\\x.tar",
]


@pytest.mark.parametrize("url", CARRYING)
def test_a_url_that_carries_a_secret_is_refused_without_showing_it(url: str) -> None:
    url = url.format(SECRET)
    for function in (refuse_credentials, url_to_fs) if not url.startswith("pipe:") else (refuse_credentials,):
        with pytest.raises(UsageError, match=r"\*\*\*.*carries credentials; set them in the environment") as raised:
            function(url)
        assert "hunter2" not in str(raised.value)
    assert redact(redact(url)) == redact(url)


@pytest.mark.parametrize("url", INNOCENT)
def test_other_urls_are_left_alone(url: str) -> None:
    refuse_credentials(url)


def test_errors_of_a_store_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "_MAX_ATTEMPTS", 1)

    def fail(path: str) -> None:
        raise OSError(5, f"403, url='https://host/{path}?X-Amz-Signature={SECRET}'")

    with pytest.raises(OSError, match=r"X-Amz-Signature=\*\*\*") as raised:
        with_retries(fail, "a.bin")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "{url}", "--out", "{out}"],
        ["run", "x.tar", "--root", "{url}", "--out", "{out}"],
        ["plan", "{shards}", "--out", "{url}"],
        ["run", "{url}"],
        ["status", "{url}"],
        ["verify", "{url}"],
        ["label", "{url}", "--policy", "{policy}"],
    ],
)
def test_no_command_writes_or_prints_a_secret(
    vitatlas: Callable[..., tuple[int, str, str]],
    checkpoint: ModelSpec,
    shards: str,
    tmp_path: Path,
    arguments: list[str],
) -> None:
    fsspec.filesystem("memory").store.clear()  # of what other tests left
    (tmp_path / "policy.yaml").write_text("{name: a, methods: [legrad], threshold: {kind: otsu}}")
    places = {"out": tmp_path / "atlas", "policy": tmp_path / "policy.yaml", "shards": shards}
    if arguments[0] == "plan" or "--out" in arguments:
        arguments = [*arguments, "--model", "test_vit", "--checkpoint", str(checkpoint.checkpoint)]
    for url in ("memory://me:hunter2@host/x.tar", "https://host/x.tar?X-Amz-Signature=hunter2"):
        code, out, err = vitatlas(*(argument.format(url=url, **places) for argument in arguments))
        assert code == 2
        assert "carries credentials" in err
        assert "hunter2" not in out + err
    assert not (tmp_path / "atlas").exists()
    assert not fsspec.filesystem("memory").store
