"""Image geometry: preprocessing to a network's input, and maps back on the image."""

from pipeline.image.orientation import apply_orientation, parse_exif_orientation, read_orientation
from pipeline.image.overlay import apply_colormap, blend_heatmap, overlay_heatmap
from pipeline.image.transforms import (
    CropTransform,
    PreprocessConfig,
    resize_crop,
    to_rgb,
)
from pipeline.image.upsample import upsample_to_image

__all__ = [
    "CropTransform",
    "PreprocessConfig",
    "apply_colormap",
    "apply_orientation",
    "blend_heatmap",
    "overlay_heatmap",
    "parse_exif_orientation",
    "read_orientation",
    "resize_crop",
    "to_rgb",
    "upsample_to_image",
]
