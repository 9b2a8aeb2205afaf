"""All measures by name. Tables and tests read them from here."""

from pipeline.faith.adcc import ADCC
from pipeline.faith.curves import Curves, DiffMaskCurves
from pipeline.faith.measure import Measure
from pipeline.faith.noise import NoiseSensitivity
from pipeline.faith.perturbation import Perturbation
from pipeline.faith.sanity import Randomisation, RandomLogit
from pipeline.faith.sensitivity import Sensitivity
from schemas.faith import Kind

FAITHFULNESS: dict[str, Measure] = {
    "adcc": ADCC(),
    "perturbation": Perturbation(),
    "curves": Curves(),
    "diffmask_curves": DiffMaskCurves(),
    "sensitivity": Sensitivity(),
}
"""Whether a map says what the network looks at."""

SANITY: dict[str, Measure] = {
    "randomisation": Randomisation(),
    "random_logit": RandomLogit(),
    "noise_sensitivity": NoiseSensitivity(),
}
"""Whether it says anything about the network and the class."""

KINDS: dict[Kind, dict[str, Measure]] = {"faithfulness": FAITHFULNESS, "sanity": SANITY}

MEASURES = FAITHFULNESS | SANITY
