"""Files of explainers that have weights of their own: tensors and a card, in safetensors."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from schemas.artifact import CARD, Card
from schemas.errors import UsageError


def write(path: Path, tensors: dict[str, Tensor], card: Card) -> None:
    """Write an artefact, whole or not at all."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {CARD: card.to_bytes().decode()})
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def read(path: str) -> tuple[dict[str, Tensor], Card | None]:
    """Tensors of an artefact, and its card if it has one.

    Raises:
        UsageError: there is no such file, or it is none.
    """
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CARD)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 – no mapping
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as safetensors ({error})") from None
    return tensors, Card.read(text.encode(), path) if text else None
