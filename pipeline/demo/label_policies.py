"""Label policies of the demo, which show the effect of refinement and of an ignore band."""

from schemas.policy import Pamr, Policy, Postprocess, Threshold

FORMATS = ("png", "coco")
_POSTPROCESS = Postprocess(min_area=0.01, fill_holes=True)

LEGRAD = Policy(name="legrad", methods=("legrad",), threshold=Threshold(kind="otsu"), postprocess=_POSTPROCESS)
LEGRAD_PAMR = LEGRAD.model_copy(update={"name": "legrad-pamr", "refine": Pamr()})
COMBINED_PAMR = Policy(
    name="three-pamr",
    methods=("legrad", "cp_lrp", "rollout"),
    refine=Pamr(),
    threshold=Threshold(kind="otsu"),
    postprocess=_POSTPROCESS,
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
