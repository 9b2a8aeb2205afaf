"""Checkpoints of promptable segmenters: folders of ``transformers`` with a SAM or a SAM 2."""

from importlib.util import find_spec
from pathlib import Path

from pipeline.utils.local_file import file_sha256
from pipeline.utils.transformers_folder import read_json
from schemas.base import sha256
from schemas.errors import UsageError

CLASSES = {
    "sam": ("SamModel", "SamImageProcessor"),
    "sam2": ("Sam2Model", "Sam2ImageProcessor"),
    "sam2_video": ("Sam2Model", "Sam2ImageProcessor"),
}
"""Of ``transformers``: model and image processor by ``model_type`` in ``config.json``. A video model has an image model
in it."""
_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "model.safetensors.index.json")


def model_type(folder: str) -> str:
    """Return the ``model_type`` of a checkpoint, one of ``CLASSES``.

    Raises:
        UsageError: it is of another type; there is no such folder.
    """
    if not (Path(folder) / "config.json").is_file():
        raise UsageError(
            f"{folder}: is no folder of transformers with a config.json; take a SAM or SAM 2 as save_pretrained writes "
            "it. MobileSAM has an image encoder that transformers has no class for"
        )
    kind = str(read_json(folder, "config.json").get("model_type"))
    if kind not in CLASSES:
        raise UsageError(f"{folder}: is a model of the type {kind[:80]!r}; refine: sam takes {', '.join(CLASSES)}")
    return kind


def hash_checkpoint(folder: str) -> str:
    """Return the hash of the files of a checkpoint that determine its masks, as ``sha256:…``.

    Raises:
        UsageError: the extra ``sam`` is not installed; the folder is no checkpoint of SAM or SAM 2, has no weights as
            safetensors, or has an adapter.
    """
    if find_spec("transformers") is None:
        raise UsageError("refine: sam needs a missing package; pip install 'vit-atlas[sam]'")
    model_type(folder)
    path = Path(folder)
    weights = sorted(file.name for file in path.glob("*.safetensors"))
    if not weights:
        raise UsageError(f"{folder}: has no weights as safetensors; save the model again by save_pretrained")
    if (path / "adapter_config.json").exists():
        raise UsageError(f"{folder}: has an adapter; merge it into the model, and save that")
    names = [name for name in (*_FILES, *weights) if (path / name).is_file()]
    return sha256("\n".join(f"{name} {file_sha256(path / name)}" for name in names).encode())
