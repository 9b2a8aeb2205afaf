"""The list of photos that `make real` explains, their boxes, and the packages that they are taken from."""

import hashlib
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from PIL import Image
from real import fetch_photos
from real.debian_package import package_files, resource_files
from real.fetch_photos import BOXES, Photo, list_photos, write_photos

FREE = {"CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-SA-4.0", "public domain"}


def resource_file(content: dict[str, bytes], compressed: set[str]) -> bytes:
    """Write a Qt resource file of version 2 with all files in one folder, /images."""
    names, data, nodes = b"", b"", []

    def place(name: str) -> int:
        nonlocal names
        offset = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        return offset

    nodes.append(struct.pack(">IHIIQ", 0, 2, 1, 1, 0))
    nodes.append(struct.pack(">IHIIQ", place("images"), 2, len(content), 2, 0))
    for name, value in content.items():
        packed = struct.pack(">I", len(value)) + zlib.compress(value) if name in compressed else value
        nodes.append(struct.pack(">IHHHIQ", place(name), int(name in compressed), 0, 0, len(data), 0))
        data += struct.pack(">I", len(packed)) + packed
    tree = b"".join(nodes)
    return struct.pack(">4sIIII", b"qres", 2, 20, 20 + len(tree), 20 + len(tree) + len(data)) + tree + data + names


def debian_package(content: dict[str, bytes]) -> bytes:
    """Write a package with an odd member before its files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as tar:
        for name, value in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    archive = b"!<arch>\n"
    for name, value in (("debian-binary", b"2.0"), ("data.tar.xz", stream.getvalue())):
        archive += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(value):<10}`\n".encode() + value + b"\n" * (len(value) % 2)
        )
    return archive


def test_every_photo_names_its_author_licence_and_source() -> None:
    photos = list_photos()
    assert {photo.license for photo in photos} == FREE
    assert all(photo.author and photo.source.startswith("https://") for photo in photos)
    assert len({photo.name for photo in photos}) == len({photo.sha256 for photo in photos}) == len(photos)


def test_just_the_photos_of_the_test_split_have_boxes_and_they_lie_in_the_photo() -> None:
    truth = json.loads(BOXES.read_text())
    images = {image["id"]: image for image in truth["images"]}
    assert {image["file_name"] for image in images.values()} == {p.path for p in list_photos() if p.split == "test"}
    assert {box["image_id"] for box in truth["annotations"]} == set(images)
    labels = {category["id"]: category["name"] for category in truth["categories"]}
    for box in truth["annotations"]:
        image = images[box["image_id"]]
        left, top, width, height = box["bbox"]
        assert 0 <= left < left + width <= image["width"]
        assert 0 <= top < top + height <= image["height"]
        assert image["file_name"].startswith(f"{labels[box['category_id']]}/")


def test_plain_and_compressed_files_of_a_resource_file_are_read() -> None:
    content = {"a.webp": b"first" * 50, "b.webp": b"second" * 50, "ö.txt": b""}
    found = resource_files(resource_file(content, {"b.webp"}))
    assert found == {f"/images/{name}": value for name, value in content.items()}


def test_files_of_a_debian_package_are_read(tmp_path: Path) -> None:
    content = {"./usr/share/a": b"1", "./usr/share/b": b"22"}
    package = tmp_path / "some.deb"
    package.write_bytes(debian_package(content))
    assert dict(package_files(package)) == content


@pytest.mark.parametrize("same", [True, False])
def test_only_the_listed_photo_is_taken(same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (1000, 600), "red").save(stream, "PNG")
    resources = resource_file({"x.png": stream.getvalue()}, set())
    monkeypatch.setattr(fetch_photos, "_SOURCES", "/")
    package = tmp_path / "game.deb"
    package.write_bytes(debian_package({"./usr/share/gcompris-qt/rcc/images.rcc": resources}))
    digest = hashlib.sha256(stream.getvalue()).hexdigest() if same else "0" * 64
    photo = Photo("x", "bird", "test", "gcompris-qt-data", "images/x.png", digest, "CC0-1.0", "a", "https://a")
    monkeypatch.setattr(fetch_photos, "list_photos", lambda: [photo])
    if same:
        write_photos(tmp_path / "photos", package)
        with Image.open(tmp_path / "photos" / "bird" / "x.jpg") as written:
            assert written.size == (500, 300)
        assert (tmp_path / "photos" / "photos.csv").read_text().split() == ["path,label,split", "bird/x.jpg,bird,test"]
        return
    with pytest.raises(SystemExit, match=r"images/x.png of gcompris-qt-data is not the photo"):
        write_photos(tmp_path / "photos", package)
