"""Expansion of shard patterns, and sample counts of shards."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, TypeVar

from pipeline.read.byte_stream import CorruptTarError, describe_source, open_byte_stream
from pipeline.read.shard_reader import ShardScan, group_by_key, scan_shard
from pipeline.read.tar_members import iter_tar_members
from pipeline.utils.io import refuse_commands, url_to_fs, with_retries
from pipeline.utils.process_pool import ProcessPool
from pipeline.utils.redaction import refuse_credentials
from schemas.errors import UsageError
from schemas.run import Grouping
from schemas.shard_record import ShardRecord, SourceRecord

T = TypeVar("T")

_BLOCK = 512
_THREADS = 32
"""Requests to a store at a time."""
_SUFFIX = re.compile(r"\.(tar(\.\w+)?|tgz)$")
_GLOB = re.compile(r"[*?\[]")
INFO_FILE = "_info.json"
"""File that lists the sample counts of shards, as ImageNet-like collections have it."""


def expand_shards(patterns: Sequence[str], allow_pipe: bool = False) -> tuple[str, ...]:
    """Expand braces and ``*`` to the URLs of all shards, in order. A file or folder of that very name is meant first.

    Args:
        patterns: paths, fsspec URLs, ``pipe:`` commands, or ``@FILE``: a text file with one of these a line, relative
            to its own folder.
        allow_pipe: accept shell commands.

    Raises:
        UsageError: a pattern matches nothing, a shard does not exist or is named twice, or a shard is a shell command
            and those are not allowed.
    """
    urls: list[str] = []
    for pattern in (line for given in patterns for line in _read_list(given)):
        refuse_commands([pattern], allow_pipe)
        refuse_credentials(pattern)
        if pattern.startswith("pipe:") or os.path.isfile(pattern):
            urls.append(pattern)
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                urls.extend(url for matches in pool.map(_match, _expand_braces(pattern)) for url in matches)
    repeated = {url for url in urls if urls.count(url) > 1} if len(set(urls)) < len(urls) else set()
    if repeated:
        raise UsageError(f"{min(repeated)}: is named twice; name each shard once")
    return tuple(urls)


def _read_list(pattern: str) -> list[str]:
    """Return the patterns in the text file of ``@FILE``; another pattern is returned as it is."""
    if not pattern.startswith("@") or os.path.exists(pattern):
        return [pattern]
    files, path = url_to_fs(pattern[1:])
    try:
        lines = files.cat_file(path).decode("utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{pattern}: there is no such list of shards") from None
    except UnicodeDecodeError:
        raise UsageError(f"{pattern}: is not text in UTF-8; write one shard a line") from None
    shards = [line.strip() for line in lines if line.strip()]
    if not shards:
        raise UsageError(f"{pattern}: names no shard; write one a line")
    root = _folder(pattern[1:]) or "."
    return [resolve_pattern(shard, root) for shard in shards]


def resolve_pattern(pattern: str, root: str = "") -> str:
    """Make a pattern absolute, so that it means the same in every process.

    Args:
        pattern: path, fsspec URL, several of these joined by ``::``, ``pipe:`` command, or ``@FILE``.
        root: folder that relative paths are relative to.
    """
    if pattern.startswith("pipe:"):
        return pattern
    if pattern.startswith("@") and not os.path.exists(os.path.join(root, pattern)):
        return "@" + resolve_pattern(pattern[1:], root)
    if "::" in pattern and not os.path.isfile(os.path.join(root, pattern)):
        return "::".join(resolve_pattern(part, root) for part in pattern.split("::"))
    if "://" in pattern or pattern.startswith("/"):
        return pattern
    if "://" in root:
        return root.rstrip("/") + "/" + pattern
    return os.path.abspath(os.path.join(root, pattern))


def _expand_braces(pattern: str) -> list[str]:
    from webdataset.shardlists import expand_urls  # imports torch, which reading and counting do without

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
    if not _GLOB.search(path):
        raise UsageError(f"{url}: no such shard")
    paths = sorted(files.glob(_escape_folders(files, path)))
    if not paths:
        hint = "; in a pattern [ and ] enclose a choice of characters, and [[] is a bracket" if "[" in path else ""
        raise UsageError(f"{url}: no shard matches{hint}")
    return [files.unstrip_protocol(path) if "://" in url else path for path in paths]


def _escape_folders(files: Any, path: str) -> str:
    """Escape the folders of a glob that exist by that very name, such as ``/data/[1]``."""
    parts = path.split("/")
    for index, part in enumerate(parts[:-1]):
        if _GLOB.search(part) and files.isdir("/".join(path.split("/")[: index + 1])):
            parts[index] = _GLOB.sub(r"[\g<0>]", part)
    return "/".join(parts)


def count_samples(
    urls: Sequence[str],
    progress: Callable[[int], None] = lambda done: None,
    keep_partial: bool = False,
    grouping: Grouping = Grouping(),
) -> tuple[ShardRecord, ...]:
    """Make a record of each shard: from ``_info.json`` beside it if that lists it, else from its headers.

    Args:
        urls: of the shards.
        progress: called with the number of shards that are counted.
        keep_partial: keep the samples before the fault of a corrupt shard. The headers of all shards are read then,
            since ``_info.json`` does not tell which are corrupt.
        grouping: rule of keys and images.

    Raises:
        UsageError: a shard cannot be reached now.
    """
    counts_by_folder = {} if keep_partial else {folder: _read_info(folder) for folder in {_folder(url) for url in urls}}
    # A listed 0 is looked at: a shard without members is valid, one that lost them is not.
    listed = {url: counts_by_folder.get(_folder(url), {}).get(PurePosixPath(url).name) or None for url in urls}
    scans = _over_shards(scan_shard, [url for url in urls if listed[url] is None], grouping)
    with ThreadPoolExecutor(_THREADS) as pool:
        sources = pool.map(_describe_source, [url for url in urls if listed[url] is not None])
    records = []
    for name, url in zip(short_names(urls), urls, strict=True):
        samples = listed[url]
        scan = _check_listed(samples, next(sources)) if samples is not None else next(scans)
        partial_ = keep_partial and scan.fault is not None and scan.samples > 0
        known = (scan.fingerprint, scan.listing, scan.left_out, scan.unlabelled)
        records.append(ShardRecord(name, url, scan.samples, scan.size, scan.fault, partial_, *known))
        progress(len(records))
    return tuple(records)


def find_labels(shards: Sequence[ShardRecord], grouping: Grouping = Grouping()) -> tuple[ShardRecord, ...]:
    """Find out whether any sample has a label member. Headers that ``count_samples`` has not read are read up to it.

    Args:
        shards: counted.
        grouping: rule of keys and images.

    Returns:
        The shards; if there is no label, ``unlabelled`` of each is the number of its samples.

    Raises:
        UsageError: a shard cannot be reached now.
    """
    unread = [shard.url for shard in shards if shard.listing is None and not shard.fault]
    is_labelled = any(shard.unlabelled < shard.samples for shard in shards if shard.listing is not None)
    # The first shard alone tells of most datasets, without processes.
    found = chain.from_iterable(_over_shards(_has_label, urls, grouping) for urls in (unread[:1], unread[1:]))
    if is_labelled or any(found):
        return tuple(shards)
    return tuple(replace(shard, unlabelled=shard.samples) for shard in shards)


def _has_label(url: str, grouping: Grouping) -> bool:
    """Return whether any sample of a shard has a label member; the headers are read up to the first that has."""
    with suppress(CorruptTarError), open_byte_stream(url) as stream:
        samples = group_by_key(iter_tar_members(stream), load=False, grouping=grouping)
        return any(sample.has_label() for sample in samples)
    return False


def count_disjoint(
    patterns: Sequence[str], held_out_patterns: Sequence[str], grouping: Grouping = Grouping()
) -> tuple[tuple[ShardRecord, ...], tuple[ShardRecord, ...]]:
    """Make records of shards to learn from, and of shards to evaluate on, as ``count_samples``.

    Args:
        patterns: of the shards to learn from.
        held_out_patterns: of the others; there may be none.
        grouping: rule of keys and images.

    Raises:
        UsageError: a shard is in both, by its path or its contents; it is corrupt; see ``expand_shards``.
    """
    urls, held_out_urls = expand_shards(patterns), expand_shards(held_out_patterns)
    if shared := sorted({os.path.realpath(url) for url in urls} & {os.path.realpath(url) for url in held_out_urls}):
        raise UsageError(f"{shared[0]}: is both a training shard and a held-out shard; remove it from one of them")
    shards, held_out = (count_samples(group, grouping=grouping) for group in (urls, held_out_urls))
    for shard in (*shards, *held_out):
        if shard.fault:
            raise UsageError(f"{shard.url}: {shard.fault}; leave it out, or fix it")
    contents: dict[Any, str] = {(shard.size, shard.fingerprint): shard.url for shard in shards if shard.fingerprint}
    for shard in held_out:
        if copied := contents.get((shard.size, shard.fingerprint)):
            raise UsageError(f"{shard.url}: is a copy of the training shard {copied}; hold out other images")
    return shards, held_out


def _check_listed(samples: int, source: SourceRecord) -> ShardScan:
    """Return the count that ``_info.json`` lists, if it is possible: a sample takes at least two blocks."""
    fault = None
    if samples < 0:
        fault = f"{INFO_FILE} says it holds {samples} samples"
    elif 0 <= source.size < samples * 2 * _BLOCK:
        fault = f"{INFO_FILE} says {samples} samples, more than its {source.size} bytes can hold"
    return ShardScan(0 if fault else samples, source.size, fault, source.fingerprint)


def _over_shards(read: Callable[[str, Grouping], T], urls: Sequence[str], grouping: Grouping) -> Iterator[T]:
    """Yield what is read of each shard, in processes if they are many."""
    read_one = partial(_read_with_retries, read, grouping)
    if len(urls) < 16:
        yield from map(read_one, urls)
        return
    with ProcessPool(min(32, os.cpu_count() or 1), __name__) as pool:
        yield from pool.map(read_one, urls)


def _read_with_retries(read: Callable[[str, Grouping], T], grouping: Grouping, url: str) -> T:
    try:
        return with_retries(read, url, grouping)
    except PermissionError as error:
        raise UsageError(f"{url}: may not be read ({error.strerror})") from error
    except OSError as error:
        # Not a problem of the shard, which would be recorded for good.
        raise UsageError(f"{url}: cannot be reached ({error.strerror}); try again, or leave it out") from error


def _folder(url: str) -> str:
    return url.rpartition("/")[0]


def _describe_source(url: str) -> SourceRecord:
    try:
        return describe_source(url)
    except CorruptTarError as error:
        raise UsageError(f"{url}: {error}; try again, or leave it out") from None


def _read_info(folder: str) -> dict[str, int]:
    """Return the sample count of each shard by file name, from ``_info.json`` in the folder.

    Other software writes files of that name as well; of one that does not list its shards, the headers are counted.
    """
    if folder.startswith("pipe:"):
        return {}
    files, path = url_to_fs(f"{folder}/{INFO_FILE}")
    if not files.exists(path):
        return {}
    try:
        splits = json.loads(files.cat_file(path))["splits"].values()
        counts = [pair for split in splits for pair in zip(split["filenames"], split["shard_lengths"], strict=True)]
        return {name: count for name, count in counts if isinstance(name, str) and type(count) is int}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def short_names(urls: Sequence[str]) -> list[str]:
    """Return a short name for each shard, safe as a file name, and unique even on a case-insensitive disk."""
    stems = [re.sub(r"[^A-Za-z0-9_.-]|^\.", "_", _SUFFIX.sub("", PurePosixPath(url).name))[:100] for url in urls]
    uses = Counter(stem.lower() for stem in stems)
    used_names = {stem for stem, count in uses.items() if count == 1}
    names = []
    for index, stem in enumerate(stems):
        name, number = stem or "shard", index
        if not stem or uses[stem.lower()] > 1:
            while (name := f"{stem or 'shard'}.{number}").lower() in used_names:
                number += len(stems)
            used_names.add(name.lower())
        names.append(name)
    return names
