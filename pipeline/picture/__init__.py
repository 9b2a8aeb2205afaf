"""Pictures and the grids that lie on them: into a network's input, and maps back over what they are of."""

from pipeline.picture.enlarge import enlarge
from pipeline.picture.fit import fit, orientation_of, rgb, upright
from pipeline.picture.geometry import Frame, Placement
from pipeline.picture.overlay import blend, colours, overlay

__all__ = ["Frame", "Placement", "blend", "colours", "enlarge", "fit", "orientation_of", "overlay", "rgb", "upright"]
