"""Pictures and the grids that lie on them: into a network's input, and maps back over what they are of."""

from pipeline.image.geometry import Frame, Placement
from pipeline.image.heatmap import blend, colours, overlay
from pipeline.image.resize import fit, orientation_of, rgb, upright
from pipeline.image.upsample import enlarge

__all__ = ["Frame", "Placement", "blend", "colours", "enlarge", "fit", "orientation_of", "overlay", "rgb", "upright"]
