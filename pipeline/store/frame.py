"""``Frame``: how a network sees images."""

from dataclasses import dataclass

from schemas.run import Geometry
from schemas.run_record import RunRecord


@dataclass(frozen=True)
class Frame:
    """How a network sees images. Maps of equal frames have the same cells in every image.

    Attributes:
        input_size: height and width of its input, in pixels.
        grid: rows and columns of the maps.
        geometry: ``squash`` or ``crop``.
        crop: crop fraction and mode of the evaluation transform; None: the whole image is resized.
    """

    input_size: tuple[int, int]
    grid: tuple[int, int]
    geometry: Geometry
    crop: tuple[float, str] | None

    @classmethod
    def of(cls, run: RunRecord) -> "Frame":
        """Return the frame of the network of a run."""
        model, geometry = run.model, run.spec.geometry
        crop = (model.crop_pct, model.crop_mode) if geometry == "crop" else None
        return cls(model.input_size, model.grid, geometry, crop)
