"""What columns of scores mean, one phrase each; formulas: ``docs/reference/metrics.md``, ``schemas.scores``."""

from collections.abc import Mapping

from schemas.audit_tables import COLUMNS

_SCORES: Mapping[str, str] = {
    "PxAP": "area under precision over recall of all pixels together",
    "MaxBoxAcc V2": "share of images with the right box, at the best thresholds for IoU 0.3, 0.5, 0.7: an upper bound",
    "GT-known": "share of images whose box has IoU 0.5 or more, at a threshold that was chosen on other images",
    "Top-1 loc": "the same, and the predicted class is the label",
    "IoU": "intersection over union of mask and object pixels, at a threshold that was chosen on other images",
    "seg. mIoU": "mean IoU of object and background, above the mean of the map",
    "pointing": "share of maps whose maximum lies on the object",
    "energy": "share of the map that lies on the object",
    "average_drop": "how much probability is lost where the picture is multiplied by the map",
    "increase": "share of images whose probability rises where the picture is multiplied by the map",
    "coherency": "how like the map is to that of the picture multiplied by it",
    "complexity": "mean of the map; low for a map of one patch, and alone it says nothing",
    "adcc": "harmonic mean of coherency, 1 − complexity and 1 − average drop",
    "adcc_of_means": "ADCC of the means of its parts, as tables of papers have it",
    "positive": "area under the accuracy while the most relevant patches become black",
    "negative": "area under the accuracy while the least relevant patches become black",
    "deletion": "area under the probability while the most relevant patches become the mean colour",
    "insertion": "area under the probability while the most relevant patches appear on the blurred picture",
    "abpc": "area under the probability, least relevant patches first, less that with the most relevant first",
    "noise_most": "area under the probability while the most relevant patches become noise",
    "noise_least": "area under the probability while the least relevant patches become noise",
    "noise_nll_most": "area under −log of the probability while the most relevant patches become noise",
    "noise_nll_least": "area under −log of the probability while the least relevant patches become noise",
    "sensitivity_max": "largest relative change of the map where a little noise is added to the picture",
    "mprt": "rank correlation with maps of the network while it forgets its weights, layer by layer",
    "smprt": "the same of maps that are averaged over noisy pictures",
    "emprt": "how much the entropy of a map's values rises once the network has forgotten all",
    "random_logit": "rank correlation with the map of another class",
    "noisy_5": "rank correlation with the map of the picture with 5 % of noise",
    "noisy_10": "rank correlation with the map of the picture with 10 % of noise",
    "noisy_20": "rank correlation with the map of the picture with 20 % of noise",
}


def meaning(score: str) -> str:
    """One phrase of a score or of a number of a map; empty where it is not known."""
    return _SCORES.get(score) or COLUMNS.get(score, "")
