"""A labelling policy: how a map becomes a mask."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.record import Record
from schemas.run import Target


class Cut(Record):
    """Where foreground begins; it is strictly above the threshold.

    Attributes:
        kind: ``fixed`` at ``at`` in [0, 1]; ``percentile`` so that ``at`` % of the picture (1 to 100) is below;
            ``otsu`` finds its own for each map.
        at: the number that goes with ``fixed`` and ``percentile``.
    """

    kind: Literal["fixed", "otsu", "percentile"]
    at: float | None = None

    @model_validator(mode="after")
    def _number_fits(self) -> "Cut":
        if self.kind == "otsu" and self.at is not None:
            raise ValueError("otsu finds its own threshold, leave out 'at'")
        # No percentile below 1, so that a fraction is not taken for one.
        low, high = {"fixed": (0, 1), "percentile": (1, 100), "otsu": (0, 0)}[self.kind]
        if self.kind != "otsu" and (self.at is None or not low <= self.at <= high):
            raise ValueError(f"{self.kind} needs 'at' between {low} and {high}")
        return self


class Policy(Record):
    """A policy file (YAML). Its hash goes with every label that is made by it.

    Attributes:
        name: for people; letters, digits, dots, dashes and underscores.
        method: whose maps, by their name in the atlas.
        target: the class that they explain.
        normalise: ``minmax`` over the map; ``max`` divides its positive part by its maximum.
        cut: where foreground begins, on the map resized (linearly) to the original picture.
        keep: ``all`` components of foreground (8-connected), or only the ``largest``.
        min_area: smaller components go; as a fraction of the picture.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    method: str
    target: Target = "label"
    normalise: Literal["minmax", "max"] = "minmax"
    cut: Cut
    keep: Literal["all", "largest"] = "all"
    min_area: Annotated[float, Field(ge=0, lt=1)] = 0.0
