"""Networks from files: weights, ``config.json``, and the conversion of layouts to timm's."""

from pipeline.explain.checkpoint.fit import load_checkpoint, resampled_by_timm
from pipeline.explain.checkpoint.model_config import ModelConfig
from pipeline.explain.checkpoint.weights_file import find_weights

__all__ = ["ModelConfig", "find_weights", "load_checkpoint", "resampled_by_timm"]
