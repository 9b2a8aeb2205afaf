"""All measures by name. Tables and tests read them from here."""

from pipeline.metrics.adcc import ADCC
from pipeline.metrics.deletion_insertion import Curves, DiffMaskCurves
from pipeline.metrics.max_sensitivity import Sensitivity
from pipeline.metrics.metric import Metric
from pipeline.metrics.noise_sensitivity import NoiseSensitivity
from pipeline.metrics.perturbation_auc import Perturbation
from pipeline.metrics.sanity import Randomisation, RandomLogit
from schemas.metrics import MetricSuite

FAITHFULNESS: dict[str, Metric] = {
    "adcc": ADCC(),
    "perturbation": Perturbation(),
    "curves": Curves(),
    "diffmask_curves": DiffMaskCurves(),
    "sensitivity": Sensitivity(),
}
"""Whether a map says what the network looks at."""

SANITY: dict[str, Metric] = {
    "randomisation": Randomisation(),
    "random_logit": RandomLogit(),
    "noise_sensitivity": NoiseSensitivity(),
}
"""Whether it says anything about the network and the class."""

KINDS: dict[MetricSuite, dict[str, Metric]] = {"faithfulness": FAITHFULNESS, "sanity": SANITY}

METRICS = FAITHFULNESS | SANITY
