"""Norms of patch tokens, in which a network without registers may have outliers: artefact tokens."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from schemas.base import Count, Finite, Record


class TokenNorms(Record):
    """Norms of the patch tokens of some images after each block (Darcet et al., ICLR 2024).

    Attributes:
        images: number of images.
        patches: patch tokens of each image.
        median: median norm, by block.
        largest: largest norm.
        threshold: norm above which a token is an outlier.
        outliers: number of outliers.
        images_with_outliers: number of images that have one.
    """

    images: Annotated[int, Field(ge=1)]
    patches: Annotated[int, Field(ge=1)]
    median: tuple[Finite, ...]
    largest: tuple[Finite, ...]
    threshold: tuple[Finite, ...]
    outliers: tuple[Count, ...]
    images_with_outliers: tuple[Count, ...]

    @classmethod
    def joined(cls, records: Iterable["TokenNorms"]) -> "TokenNorms | None":
        """Join records of different images; None if there are none.

        Counts are added. Medians and thresholds become means over the images: each of them is an estimate.
        """
        known = list(records)
        if not known:
            return None
        images = sum(record.images for record in known)

        def mean(name: str) -> tuple[float, ...]:
            columns = zip(*(getattr(record, name) for record in known), strict=True)
            weights = [record.images / images for record in known]
            return tuple(sum(w * v for w, v in zip(weights, values, strict=True)) for values in columns)

        return cls(
            images=images,
            patches=known[0].patches,
            median=mean("median"),
            threshold=mean("threshold"),
            largest=tuple(map(max, zip(*(record.largest for record in known), strict=True))),
            outliers=tuple(map(sum, zip(*(record.outliers for record in known), strict=True))),
            images_with_outliers=tuple(map(sum, zip(*(record.images_with_outliers for record in known), strict=True))),
        )

    def describe(self, readout: str) -> str:
        """Return the outliers after the worst block, in one line.

        Args:
            readout: see ``worst_block``.
        """
        block = self.worst_block(readout)
        where = f"after block {block}, in {self.images_with_outliers[block]:,} of {self.images:,} images"
        share, ratio = self.share(block), self.ratio(block)
        return f"{share:.2%} outliers among patch tokens {where}; the largest norm is {ratio:.1f} medians"

    def share(self, block: int) -> float:
        """Return the share of the patch tokens after a block that are outliers."""
        return self.outliers[block] / (self.images * self.patches)

    def ratio(self, block: int) -> float:
        """Return the largest norm after a block, divided by the median."""
        return self.largest[block] / self.median[block] if self.median[block] else 1.0

    def worst_block(self, readout: str) -> int:
        """Return the block after which most images have an outlier; among equals, the largest ratio decides.

        The ratio alone would often choose the first blocks, whose norms vary with what a patch shows.

        Args:
            readout: of the network. The patch tokens of the last block are read by nobody in one that reads a class
                token, so that block is left out.
        """
        depth = len(self.median)
        blocks = range(max(1, depth - 1) if readout == "token" else depth)
        return max(blocks, key=lambda block: (self.images_with_outliers[block], self.ratio(block)))
