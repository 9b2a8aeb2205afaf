"""Names of models on the Hugging Face hub, and the folders that they are downloaded to."""

import os

import timm
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from schemas.errors import UsageError

HUB = "hf-hub:"
_OF_TIMM = "timm/"
_FILES = ("*.json", "model*.safetensors")
_OLD_FILES = ("pytorch_model*.bin",)


def plain_name(name: str) -> str:
    """Return the name by which timm knows ``timm/NAME``, or else as one on the hub; other names stay as they are."""
    if not name.startswith(_OF_TIMM):
        return name
    known = name.removeprefix(_OF_TIMM)
    return known if timm.is_model(known.partition(".")[0]) else HUB + name


def download(name: str) -> str:
    """Download a model, unless it has been downloaded before.

    Args:
        name: ``hf-hub:ORG/NAME``, with ``@REVISION`` at its end for a certain one.

    Returns:
        Its folder.

    Raises:
        UsageError: there is no such model, or no network.
    """
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        folder = snapshot_download(repository, revision=revision or None, allow_patterns=list(_FILES))
        if not any(file.endswith(".safetensors") for file in os.listdir(folder)):
            folder = snapshot_download(repository, revision=revision or None, allow_patterns=[*_FILES, *_OLD_FILES])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{name}: cannot be downloaded ({reason}); download it where there is a network, and give its folder as "
            "local-dir:FOLDER"
        ) from None
    return folder
