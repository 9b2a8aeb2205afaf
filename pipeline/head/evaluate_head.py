"""Accuracy and calibration of a head on held-out features."""

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.head.block_sums import concat_blocks
from pipeline.head.feature_table import FeatureRows
from pipeline.utils.calibration import CalibrationError
from schemas.learned_head import HeadMetrics


def evaluate_head(head: nn.Module, rows: FeatureRows, device: torch.device) -> HeadMetrics:
    """Evaluate a classifier whose probabilities are the softmax of its logits.

    Args:
        head: features float32 [m, in] → logits [m, C].
        rows: held-out features and labels, at least one row.
        device: of the computation.
    """
    head = head.to(device)

    def of_block(features: Tensor, labels: Tensor) -> Tensor:
        with torch.inference_mode():
            logs = head(features).double().log_softmax(1)
        confidence, predicted = logs.max(1)
        nll = -logs.gather(1, labels[:, None])[:, 0]
        return torch.stack([nll, confidence.exp(), (predicted == labels).double()], 1).cpu()

    nll, confidence, correct = concat_blocks(rows, device, of_block).numpy().T
    calibration = CalibrationError()
    calibration.add(confidence, correct)
    return HeadMetrics(accuracy=float(np.mean(correct)), nll=float(np.mean(nll)), ece=calibration.ece)
