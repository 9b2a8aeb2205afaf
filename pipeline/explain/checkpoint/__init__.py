"""Networks from files: weights, ``config.json``, and the conversion of layouts to timm's."""

from pipeline.explain.checkpoint.conversion import require_whole_patches, resampled_by_timm
from pipeline.explain.checkpoint.fit import derive_transformers, load_checkpoint
from pipeline.explain.checkpoint.model_config import ImageConfig, ModelConfig, create_for_size
from pipeline.explain.checkpoint.preprocessor import images_beside
from pipeline.explain.checkpoint.recognize import MERGE_ADAPTERS
from pipeline.explain.checkpoint.transformers_config import is_of_transformers
from pipeline.explain.checkpoint.weights_file import find_weights

__all__ = [
    "MERGE_ADAPTERS",
    "ImageConfig",
    "ModelConfig",
    "create_for_size",
    "derive_transformers",
    "find_weights",
    "images_beside",
    "is_of_transformers",
    "load_checkpoint",
    "require_whole_patches",
    "resampled_by_timm",
]
