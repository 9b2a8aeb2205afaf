"""Shard patterns to shards: what is there, and how many samples each shard holds."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from pipeline.read.samples import Scan, scan
from pipeline.utils.io import refuse_commands, url_to_fs, with_retries
from pipeline.utils.process_pool import make_process_pool
from pipeline.utils.redaction import refuse_credentials
from schemas.errors import UsageError
from schemas.run import ShardRecord

_BLOCK = 512
_AT_ONCE = 32
"""Shards that are asked for together: a bucket answers for them side by side."""
_SUFFIX = re.compile(r"\.(tar(\.\w+)?|tgz)$")
INFO = "_info.json"
"""Where ImageNet-like collections keep the number of samples of each shard."""


def find(patterns: Sequence[str], allow_pipe: bool = False) -> tuple[str, ...]:
    """URLs of all shards, in order: braces expanded and ``*`` matched, unless a file has that very name.

    Raises:
        UsageError: a pattern matches nothing, a shard does not exist or is named twice, or a shard is a
            shell command and those were not allowed.
    """
    urls: list[str] = []
    for pattern in patterns:
        refuse_commands([pattern], allow_pipe)
        refuse_credentials(pattern)
        if pattern.startswith("pipe:") or os.path.isfile(pattern):
            urls.append(pattern)
        else:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                urls.extend(name for found in pool.map(_match, _expand(pattern)) for name in found)
    twice = {url for url in urls if urls.count(url) > 1} if len(set(urls)) < len(urls) else set()
    if twice:
        raise UsageError(f"{min(twice)}: is named twice; name each shard once")
    return tuple(urls)


def absolute(pattern: str, root: str = "") -> str:
    """A pattern that means the same in every process. ``root`` is what a relative one stands in."""
    if "://" in pattern or pattern.startswith(("/", "pipe:")):
        return pattern
    if "://" in root:
        return root.rstrip("/") + "/" + pattern
    return os.path.abspath(os.path.join(root, pattern))


def _expand(pattern: str) -> list[str]:
    from webdataset.shardlists import expand_urls  # it brings torch, which reading and counting do without

    try:
        return list(expand_urls(pattern))
    except ValueError as error:
        raise UsageError(f"{pattern}: its braces do not match ({error})") from None


def _match(url: str) -> list[str]:
    files, path = url_to_fs(url)
    try:
        kind = files.info(path)["type"]
    except FileNotFoundError:
        kind = None
    if kind == "directory":
        raise UsageError(f"{url}: is a folder; name its shards, as in '{url.rstrip('/')}/*.tar'")
    if kind is not None:
        return [url]
    if not re.search(r"[*?\[]", path):
        raise UsageError(f"{url}: no such shard")
    found = sorted(files.glob(path))
    if not found:
        raise UsageError(f"{url}: no shard matches")
    return [files.unstrip_protocol(name) if "://" in url else name for name in found]


def count(
    urls: Sequence[str], progress: Callable[[int], None] = lambda done: None, keep_partial: bool = False
) -> tuple[ShardRecord, ...]:
    """A record of each shard: from ``_info.json`` beside it where there is one, else from its headers.

    Args:
        progress: called with the number of shards that are counted.
        keep_partial: of shards that are damaged keep the samples in front of that. The headers of all are read
            then, since ``_info.json`` does not know.

    Raises:
        UsageError: a shard cannot be reached now, or ``_info.json`` is none.
    """
    lengths = {} if keep_partial else {folder: _lengths(folder) for folder in {_folder(url) for url in urls}}
    known = {url: lengths.get(_folder(url), {}).get(PurePosixPath(url).name) for url in urls}
    scans = _scan([url for url in urls if known[url] is None])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sizes = pool.map(_size, [url for url in urls if known[url] is not None])
    records = []
    for name, url in zip(names(urls), urls, strict=True):
        samples = known[url]
        result = _listed(samples, next(sizes)) if samples is not None else next(scans)
        kept = keep_partial and result.fault is not None and result.samples > 0
        records.append(
            ShardRecord(name=name, url=url, samples=result.samples, size=result.size, fault=result.fault, partial=kept)
        )
        progress(len(records))
    return tuple(records)


def _listed(samples: int, size: int) -> Scan:
    """What ``_info.json`` says of a shard, if that can be: a sample takes two blocks at least."""
    if samples * 2 * _BLOCK > size:
        return Scan(0, size, f"{INFO} says {samples} samples, more than its {size} bytes can hold")
    return Scan(samples, size, None if samples > 0 else f"{INFO} says it holds {samples} samples")


def _scan(urls: Sequence[str]) -> Iterator[Scan]:
    if len(urls) < 16:
        yield from map(_reached, urls)
        return
    with make_process_pool(min(32, os.cpu_count() or 1), __name__) as pool:
        yield from pool.map(_reached, urls, chunksize=4)


def _reached(url: str) -> Scan:
    try:
        return with_retries(scan, url)
    except OSError as error:
        # Not a problem of the shard: that would be written down for good.
        raise UsageError(f"{url}: cannot be reached ({error.strerror}); try again, or leave it out") from error


def _folder(url: str) -> str:
    return url.rpartition("/")[0]


def _size(url: str) -> int:
    files, path = url_to_fs(url)
    return int(files.size(path))


def _lengths(folder: str) -> dict[str, int]:
    """Samples of each shard by file name, as ``_info.json`` in the folder says."""
    if folder.startswith("pipe:"):
        return {}
    files, path = url_to_fs(f"{folder}/{INFO}")
    if not files.exists(path):
        return {}
    try:
        splits = json.loads(files.cat_file(path))["splits"].values()
        lengths = {
            name: length
            for split in splits
            for name, length in zip(split["filenames"], split["shard_lengths"], strict=True)
        }
        if not all(isinstance(length, int) for length in lengths.values()):
            raise ValueError("a length is not a whole number")
        return lengths
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{folder}/{INFO}: does not list shard_lengths of its filenames ({error})") from None


def names(urls: Sequence[str]) -> list[str]:
    """A short name for each shard, safe as a file name, and unique even where a disk takes no notice of case."""
    stems = [re.sub(r"[^A-Za-z0-9_.-]|^\.", "_", _SUFFIX.sub("", PurePosixPath(url).name))[:100] for url in urls]
    often = Counter(stem.lower() for stem in stems)
    taken = {stem for stem, times in often.items() if times == 1}
    names = []
    for index, stem in enumerate(stems):
        name, attempt = stem or "shard", index
        if not stem or often[stem.lower()] > 1:
            while (name := f"{stem or 'shard'}.{attempt}").lower() in taken:
                attempt += len(stems)
            taken.add(name.lower())
        names.append(name)
    return names
