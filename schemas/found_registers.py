"""Test-time registers to find: what the user asks for, and what was found."""

from typing import Annotated

from pydantic import Field

from schemas.base import Count, Finite, Record
from schemas.run import Exif, Geometry, Grouping, KeySeparator, ModelSpec


class FindRegistersSpec(Record):
    """Neurons to find: ``vitatlas head registers``.

    Attributes:
        model: the network.
        shards: shards of images; they need no labels.
        out: path of the file.
        images: number of images to draw.
        neurons: number of neurons to choose.
        threshold: norm above which a patch token is an outlier; None: the median of its block and 8 · 1.4826 median
            absolute deviations.
        block: block after which outliers are looked for, from 0, or negative from the end; None: the one after which
            most images have one.
        highest_block: last block whose neurons may be chosen, likewise; None: the first one after which there are half
            as many outliers as after ``block``.
        seed: random seed of the drawing.
        geometry: as in ``RunSpec``.
        batch_size: as in ``RunSpec``.
        key_separator: as in ``RunSpec``.
        image_key: as in ``RunSpec``.
        exif: as in ``RunSpec``.
    """

    model: ModelSpec
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    out: str
    images: Annotated[int, Field(ge=1, le=2000)] = 200
    neurons: Annotated[int, Field(ge=1)] = 10
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    block: int | None = None
    highest_block: int | None = None
    seed: int = 0
    geometry: Geometry = "squash"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    key_separator: KeySeparator = "first-dot"
    image_key: tuple[str, ...] = ()
    exif: Exif = "apply"

    @property
    def grouping(self) -> Grouping:
        """Rule by which the members of a shard become samples."""
        return Grouping(self.key_separator, self.image_key)


class FoundRegisters(Record):
    """How neurons were found; ``provenance`` of their ``RegistersRecord`` is this record as JSON.

    Attributes:
        model: name of the network.
        images: number of images.
        block: block after which outliers were looked for, from 0.
        highest_block: last block whose neurons could be chosen.
        threshold: norm above which a patch token counted as outlier.
        ratio: largest norm after ``block``, divided by the median.
        images_with_outliers: number of images that had one.
        share: share of the patch tokens that were outliers.
        share_with_registers: the same, by the same threshold, with the registers.
    """

    model: str
    images: Count
    block: Count
    highest_block: Count
    threshold: Finite
    ratio: Finite
    images_with_outliers: Count
    share: Finite
    share_with_registers: Finite
