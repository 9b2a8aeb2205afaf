"""Label policies of the demo, which show the effect of refinement and of an ignore band."""

from schemas.policy import Pamr, Policy, Threshold
from schemas.rank import POSTPROCESS

FORMATS = ("png", "coco")

LEGRAD = Policy(name="legrad", methods=("legrad",), threshold=Threshold(kind="otsu"), postprocess=POSTPROCESS)
LEGRAD_PAMR = LEGRAD.model_copy(update={"name": "legrad-pamr", "refine": Pamr()})
COMBINED_PAMR = Policy(
    name="three-pamr",
    methods=("legrad", "cp_lrp", "rollout"),
    refine=Pamr(),
    threshold=Threshold(kind="otsu"),
    postprocess=POSTPROCESS,
)
"""Best policy that was found without any mask in training."""
COMBINED_BAND = COMBINED_PAMR.model_copy(
    update={
        "name": "three-band",
        "threshold": Threshold(kind="otsu", scale=1.1),
        "background_threshold": Threshold(kind="otsu", scale=0.6),
    }
)
"""The same with an ignore band of uncertain pixels."""
PM_PAMR = COMBINED_PAMR.model_copy(update={"name": "pm-pamr", "methods": ("pm", "cp_lrp")})
"""With the method that was trained on masks of 0.83 % of the training scenes."""
POLICIES = (LEGRAD, LEGRAD_PAMR, COMBINED_PAMR, COMBINED_BAND, PM_PAMR)
