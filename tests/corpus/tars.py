"""Strange tars: each name with its bytes, and what is to be said of it; nothing where it is as good as any."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from support import samples

MEMBERS = samples(4)


@dataclass(frozen=True)
class Strange:
    """Bytes, a pattern of what is wrong with them, and how many samples are good where they are kept."""

    make: Callable[[], bytes]
    fault: str | None = None
    partial: int = 0


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    """One header block, whose size may be any."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    return checked(block)


def checked(block: bytearray) -> bytes:
    """A header with its checksum."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(data), kind) + padded(data)


def tar(*parts: bytes, end: bytes = bytes(1024)) -> bytes:
    return b"".join(parts) + end


def packed(form: int = tarfile.PAX_FORMAT, prefix: str = "", **options: object) -> bytes:
    """A tar as Python writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **options) as archive:
        for name, data in MEMBERS:
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


GOOD = tar(*(member(name, data) for name, data in MEMBERS))
FIRST = tar(*(member(name, data) for name, data in MEMBERS[:3]), end=b"")
REST = tar(*(member(name, data) for name, data in MEMBERS[3:]), end=b"")
"""The first sample, and the other three."""
THIRD = GOOD.index(b"s0002.jpg")


def among(*parts: bytes) -> bytes:
    """A tar with something between the first sample and the others."""
    return tar(FIRST, *parts, REST)


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("pax", records, kind)


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode("utf-8", "surrogateescape")
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


def long_name(name: str) -> bytes:
    return member("././@LongLink", name.encode() + b"\0", tarfile.GNUTYPE_LONGNAME)


def flipped(data: bytes, at: float) -> bytes:
    place = int(at * len(data))
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


SKIPPED = b"\x5a\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"skipped"
"""A skippable frame, as zstandard has them."""


def zstd(data: bytes) -> bytes:
    """One frame."""
    return pa.compress(data, "zstd", asbytes=True)


def devices() -> bytes:
    kinds = (tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    return b"".join(header(f"x{number}.bin", kind=kind, linkname="/etc/passwd") for number, kind in enumerate(kinds))


def old() -> bytes:
    """Headers as of before POSIX: no magic, and a type of zero."""
    blocks = bytearray(GOOD)
    for name, _ in MEMBERS:
        at = blocks.index(name.encode())
        blocks[at + 156] = 0
        blocks[at + 257 : at + 265] = bytes(8)
        blocks[at : at + 512] = checked(blocks[at : at + 512])
    return bytes(blocks)


SOUND = {
    "plain": Strange(lambda: GOOD),
    "gzip": Strange(lambda: gzip.compress(GOOD)),
    "bzip2": Strange(lambda: bz2.compress(GOOD)),
    "xz": Strange(lambda: lzma.compress(GOOD)),
    "lzma": Strange(lambda: lzma.compress(GOOD, lzma.FORMAT_ALONE)),
    "gzip in several parts": Strange(lambda: gzip.compress(GOOD[:3000]) + gzip.compress(GOOD[3000:])),
    "bzip2 in several parts": Strange(lambda: bz2.compress(GOOD[:3000]) + bz2.compress(GOOD[3000:])),
    "bzip2 filled up": Strange(lambda: bz2.compress(GOOD) + bytes(9999)),
    "xz in several parts": Strange(lambda: lzma.compress(GOOD[:3000]) + bytes(8) + lzma.compress(GOOD[3000:])),
    "zstandard": Strange(lambda: zstd(GOOD)),
    "zstandard in several parts": Strange(lambda: zstd(GOOD[:3000]) + zstd(b"") + zstd(GOOD[3000:])),
    "zstandard as of pzstd": Strange(
        lambda: b"".join(SKIPPED + zstd(GOOD[i : i + 999]) for i in range(0, len(GOOD), 999))
    ),
    "zstandard with something behind to skip": Strange(lambda: zstd(GOOD) + SKIPPED + SKIPPED),
    "gzip filled up": Strange(lambda: gzip.compress(GOOD) + bytes(9999)),
    "posix": Strange(lambda: packed(tarfile.PAX_FORMAT)),
    "ustar": Strange(lambda: packed(tarfile.USTAR_FORMAT)),
    "ustar with a prefix": Strange(lambda: packed(tarfile.USTAR_FORMAT, "folder/" * 20)),
    "gnu": Strange(lambda: packed(tarfile.GNU_FORMAT)),
    "gnu with long names": Strange(lambda: packed(tarfile.GNU_FORMAT, "folder/" * 99)),
    "posix with long names": Strange(lambda: packed(tarfile.PAX_FORMAT, "folder/" * 99)),
    "posix with other letters": Strange(lambda: packed(tarfile.PAX_FORMAT, "Ordner-ü-写真/")),
    "of before posix": Strange(old),
    "with a header for all": Strange(lambda: packed(tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 999})),
    "filled up": Strange(lambda: GOOD + bytes(3_000_000)),
    "end of one block": Strange(lambda: GOOD[:-512]),
    "devices, links and folders": Strange(lambda: among(devices())),
    "hard link": Strange(lambda: among(header("x.bin", kind=tarfile.LNKTYPE, linkname="s0000.jpg"))),
    "device with a size": Strange(lambda: among(header("x.bin", 10**9, tarfile.CHRTYPE))),
    "member of unknown kind": Strange(lambda: among(member("x.bin", bytes(999), b"Z"))),
    "contiguous member": Strange(lambda: among(member("notes", bytes(999), tarfile.CONTTYPE))),
    "empty member": Strange(lambda: among(member("notes", b""))),
    "attributes": Strange(lambda: among(pax(record("SCHILY.xattr.user.x", "y" * 9999)), member("notes", b"x"))),
    "attributes with zeros behind": Strange(lambda: among(pax(record("a", "b") + bytes(99)), member("notes", b"x"))),
    "size in an extended header": Strange(lambda: among(pax(record("size", "600")), header("notes"), bytes(1024))),
    "thousands of long names": Strange(lambda: among(long_name("notes" * 50) * 3000, member("x", b""))),
    "many members that are no samples": Strange(lambda: among(*(member(f"notes-{n}", b"") for n in range(2000)))),
    "many members of one sample": Strange(
        lambda: tar(*(member(f"s0000.{number}", b"") for number in range(2000)), FIRST, REST)
    ),
    "hidden files": Strange(lambda: among(member("._s0001.jpg", b"Mac OS X"), member(".DS_Store", b""))),
    "pickles and programs": Strange(
        lambda: among(
            member("s0000.pyd", b"cos\nsystem\n(S'touch executed'\ntR."),
            member("s0000.pth", b"cos\nsystem\n(S'touch executed'\ntR."),
            member("setup.py", b"open('executed', 'w')"),
        )
    ),
}

BROKEN = {
    "empty": Strange(lambda: b"", "it is empty"),
    "empty gzip": Strange(lambda: gzip.compress(b""), "it is empty"),
    "zeros, packed": Strange(lambda: gzip.compress(bytes(50_000_000)), "it holds no samples"),
    "no samples": Strange(lambda: tar(member("notes.txt", b"x")), "it holds no samples"),
    "links only": Strange(lambda: tar(devices()), "it holds no samples"),
    "page of an error": Strange(lambda: b"<html>404 Not Found</html>" * 99, "it is not a tar"),
    "zip": Strange(lambda: b"PK\3\4" + bytes(2000), "it is not a tar"),
    "text in front": Strange(lambda: b"\xef\xbb\xbf" + GOOD, "it is not a tar"),
    "packed twice": Strange(lambda: gzip.compress(gzip.compress(GOOD)), "it is not a tar"),
    "one byte": Strange(lambda: b"s", "it is not a tar"),
    "zstandard of noise": Strange(lambda: b"\x28\xb5\x2f\xfd" + b"\xff" * 99, "zstd|not a tar|truncated|rror"),
    "cut in its first header": Strange(lambda: GOOD[:300], "it is not a tar"),
    "cut in a header": Strange(lambda: GOOD[: THIRD + 100], "it is truncated", 1),
    "cut in a member": Strange(lambda: GOOD[: THIRD + 600], "it is truncated", 2),
    "cut between samples": Strange(lambda: GOOD[:THIRD], "it is truncated: it ends at byte", 1),
    "cut in front of its end": Strange(lambda: GOOD[:-1024], "it is truncated: it ends at byte", 3),
    "cut, gzip": Strange(lambda: gzip.compress(GOOD)[:-900], "it is truncated", 1),
    "cut, xz": Strange(lambda: lzma.compress(GOOD)[:-100], "it is truncated", 3),
    "cut, bzip2": Strange(lambda: bz2.compress(GOOD)[:-100], "it is truncated"),
    "cut in the checksum of gzip": Strange(lambda: gzip.compress(GOOD)[:-3], "it is truncated", 3),
    "header of noise": Strange(lambda: GOOD[:THIRD] + b"\xff" * 512 + GOOD[THIRD + 512 :], "is broken", 1),
    "wrong checksum": Strange(lambda: GOOD[: THIRD + 150] + b"7" + GOOD[THIRD + 151 :], "is broken", 1),
    "hole of zeros": Strange(lambda: GOOD[:THIRD] + bytes(512) + GOOD[THIRD + 512 :], "data follows", 1),
    "packed hole of zeros": Strange(
        lambda: gzip.compress(GOOD[:THIRD] + bytes(512) + GOOD[THIRD + 512 :]), "data follows"
    ),
    "two in one": Strange(lambda: GOOD + GOOD, "data follows", 3),
    "something behind": Strange(lambda: GOOD + b"x" * 99, "data follows", 3),
    "negative size": Strange(lambda: among(header("x.jpg", -512)), "is broken"),
    "negative size that goes back": Strange(lambda: among(header("x.jpg", -1024)), "is broken"),
    "size beyond measure": Strange(lambda: among(header("x.jpg", 2**80)), "it is truncated", 1),
    "size beyond its end": Strange(lambda: among(header("x.jpg", 10**9)), "it is truncated", 1),
    "packed size beyond its end": Strange(lambda: gzip.compress(among(header("x.jpg", 2**70))), "truncated", 1),
    "long name of gigabytes": Strange(lambda: among(header("x", 2**33, tarfile.GNUTYPE_LONGNAME)), "more than"),
    "extended header of gigabytes": Strange(lambda: among(header("x", 2**33, tarfile.XHDTYPE)), "more than"),
    "extended header of negative size": Strange(lambda: among(header("x", -1, tarfile.XHDTYPE)), "is broken"),
    "extended header of noise": Strange(lambda: among(pax(b"\xff" * 600)), "is broken"),
    "extended header of digits": Strange(lambda: among(pax(b"1" * 600_000)), "is broken"),
    "extended header without end": Strange(lambda: among(pax(b"99 path=x\n")), "is broken"),
    "extended header of no length": Strange(lambda: among(pax(b"0 path=x\n")), "is broken"),
    "extended size of words": Strange(lambda: among(pax(record("size", "many"))), "is broken"),
    "extended size below zero": Strange(lambda: among(pax(record("size", "-1024"))), "is broken"),
    "extended size beyond its end": Strange(
        lambda: among(pax(record("size", "9" * 18)), header("x.jpg")), "it is truncated", 1
    ),
    "extended header of nothing": Strange(lambda: tar(FIRST, REST, long_name("x")), "is broken", 3),
    "extended header cut": Strange(lambda: tar(FIRST, REST, pax(b"x" * 2000)[:900], end=b""), "truncated", 3),
    "sparse member": Strange(lambda: among(header("x.jpg", kind=tarfile.GNUTYPE_SPARSE)), "is a sparse file"),
    "sparse member of posix": Strange(
        lambda: among(pax(record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0")), member("x.jpg", b"1\n")),
        "is a sparse file",
    ),
    "spoiled, gzip": Strange(lambda: flipped(gzip.compress(GOOD), 0.5), "rror|CRC|broken|truncated"),
    "spoiled, bzip2": Strange(lambda: flipped(bz2.compress(GOOD), 0.5), "OSError|broken|not a tar"),
    "spoiled, xz": Strange(lambda: flipped(lzma.compress(GOOD), 0.5), "LZMAError|broken"),
    "wrong checksum of gzip": Strange(lambda: flipped(gzip.compress(GOOD, 0), 0.3), "CRC"),
    "cut, zstandard": Strange(lambda: zstd(GOOD)[:-300], "it is truncated"),
    "cut between two parts, zstandard": Strange(lambda: zstd(GOOD[: THIRD + 600]), "it is truncated", 2),
    "cut in its last part, zstandard": Strange(lambda: zstd(GOOD) + zstd(bytes(99))[:-2], "it is truncated", 3),
    "header of noise, zstandard": Strange(lambda: zstd(GOOD)[:20] + b"\xff" * 999, "OSError|truncated|not a tar"),
    "something behind zstandard": Strange(lambda: zstd(GOOD) + b"x" * 999, "OSError"),
    "only to be skipped": Strange(lambda: SKIPPED, "it is empty"),
    "something behind bzip2": Strange(lambda: bz2.compress(GOOD) + b"x" * 999, "OSError"),
    "something behind xz": Strange(lambda: lzma.compress(GOOD) + b"x" * 999, "LZMAError"),
    "two in one, bzip2": Strange(lambda: bz2.compress(GOOD) + bz2.compress(GOOD), "data follows"),
    "two in one, of which the second is broken": Strange(
        lambda: bz2.compress(GOOD) + bz2.compress(GOOD)[9:], "OSError"
    ),
    "something behind gzip": Strange(lambda: gzip.compress(GOOD) + b"x" * 999, "BadGzipFile"),
    "gzip header only": Strange(lambda: gzip.compress(GOOD)[:9], "it is truncated|it is empty"),
    "gzip of no such method": Strange(lambda: b"\x1f\x8b\x07" + gzip.compress(GOOD)[3:], "BadGzipFile"),
}

TARS: dict[str, Strange] = SOUND | BROKEN
