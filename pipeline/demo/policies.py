"""The policies of the demo: what refinement gains, and what an ignore band does."""

from schemas.policy import Pamr, Policy, Postprocess, Threshold

FORMATS = ("png", "coco")
_CLEAN = Postprocess(min_area=0.01, fill_holes=True)

PLAIN = Policy(name="legrad", methods=("legrad",), threshold=Threshold(kind="otsu"), postprocess=_CLEAN)
REFINED = PLAIN.model_copy(update={"name": "legrad-pamr", "refine": Pamr()})
THREE = Policy(
    name="three-pamr",
    methods=("legrad", "cp_lrp", "rollout"),
    refine=Pamr(),
    threshold=Threshold(kind="otsu"),
    postprocess=_CLEAN,
)
"""The best that was found without a single mask in training."""
BANDED = THREE.model_copy(
    update={
        "name": "three-band",
        "threshold": Threshold(kind="otsu", scale=1.1),
        "background_threshold": Threshold(kind="otsu", scale=0.6),
    }
)
"""The same, with what is uncertain left out."""
LEARNT = THREE.model_copy(update={"name": "pm-pamr", "methods": ("pm", "cp_lrp")})
"""With what learnt from masks of 0.83 % of the training scenes."""
POLICIES = (PLAIN, REFINED, THREE, BANDED, LEARNT)
