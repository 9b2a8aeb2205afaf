"""The policies of the demo: what refinement gains, and what an ignore band does."""

from schemas.policy import Clean, Cut, Pamr, Policy

FORMATS = ("png", "coco")
_CLEAN = Clean(min_area=0.01)

PLAIN = Policy(name="legrad-otsu", methods=("legrad",), cut=Cut(kind="otsu"), clean=_CLEAN)
REFINED = PLAIN.model_copy(update={"name": "legrad-pamr", "refine": Pamr()})
SHARP = Policy(name="sharp", methods=("legrad", "cp_lrp"), refine=Pamr(), cut=Cut(kind="otsu"), clean=_CLEAN)
"""The best that was found without a single mask."""
BANDED = SHARP.model_copy(
    update={"name": "banded", "cut": Cut(kind="otsu", scale=1.15), "background": Cut(kind="otsu", scale=0.75)}
)
"""The same, with what is uncertain left out."""
POLICIES = (PLAIN, REFINED, SHARP, BANDED)
