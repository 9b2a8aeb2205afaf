"""Test-time registers: a token that takes over the neurons which give patch tokens their large norms."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from pipeline.explain.anatomy import Anatomy, describe_transformer
from pipeline.explain.head import backbone_hash
from pipeline.explain.register_modules import RegisterBlocks, RegisterShift
from pipeline.utils.atomic_write import write_atomically
from pipeline.utils.local_file import read_text
from schemas.errors import UnsupportedModel
from schemas.registers import AttachedRegisters, RegistersRecord

_FAMILIES = ("VisionTransformer", "VisionTransformerDistilled")


@dataclass(frozen=True)
class Registers:
    """Test-time registers (Jiang et al., Vision Transformers Don't Need Trained Registers, NeurIPS 2025).

    A token of zeros is appended behind the patches, without a position. In some channels of the hidden layers of MLPs
    it takes the value of the largest size over all tokens, and the patches take 0. It attends and is attended, and is
    dropped before the final norm. The logits change: it is another network.

    Attributes:
        record: neurons, and the network that they are of.
        source: name of the file, for error messages.
    """

    record: RegistersRecord
    source: str = "registers"

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of ``vitatlas head registers``.

        Raises:
            UsageError: it cannot be read, or is no such file.
        """
        return cls(RegistersRecord.read(read_text(path).encode(), str(path)), str(path))

    def save(self, path: str | Path) -> None:
        """Write the file atomically.

        Raises:
            UsageError: the file exists and is no such file.
        """
        if os.path.exists(path):
            Registers.load(path)
        write_atomically(str(path), self.record.to_bytes())

    def for_any_backbone(self) -> "Registers":
        """Return the registers without the hash of their backbone, for networks of random weights or none."""
        return replace(self, record=self.record.model_copy(update={"backbone": ""}))

    def attach(self, model: nn.Module) -> nn.Module:
        """Put the register on a network, after its head. The network is changed, and returned.

        Args:
            model: a vision transformer of timm, in its final dtype and on its final device; one of another library
                becomes it by ``as_timm``.

        Raises:
            UnsupportedModel: the neurons are not of this network, or it cannot have registers.
        """
        parts: Any = model
        anatomy, record = self.check(model), self.record
        device = next(model.parameters()).device
        for block, channels in record.neurons.items():
            shift = RegisterShift(torch.tensor(channels, device=device), anatomy.prefix_tokens, record.value)
            parts.blocks[block].mlp.drop1 = shift.train(model.training)
        parts.blocks = RegisterBlocks(parts.blocks, record.attached).train(model.training)
        return model

    def check(self, model: nn.Module) -> Anatomy:
        """Return the anatomy of a network that the register can be put on. Arguments and errors: see ``attach``."""
        parts: Any = model

        def refuse(reason: str) -> UnsupportedModel:
            return UnsupportedModel(f"{self.source}: does not fit {type(model).__name__}: {reason}")

        anatomy, record = describe_transformer(model), self.record
        if anatomy.registers:
            raise refuse("it has test-time registers already")
        if anatomy.family not in _FAMILIES or anatomy.positions != "absolute":
            raise refuse(
                f"its {anatomy.positions} positions are those of its own tokens, which leave no place for more"
            )
        if getattr(parts, "grad_checkpointing", False):
            raise refuse("gradient checkpointing calls its blocks one by one; switch it off")
        if record.backbone and record.backbone != (own := backbone_hash(model)):
            raise refuse(
                f"its neurons were found in the network {record.backbone[:19]}…, this one is {own[:19]}…; find its own "
                "with vitatlas head registers"
            )
        for block, channels in record.neurons.items():
            if block >= anatomy.depth:
                raise refuse(f"it has no block {block}, only 0 to {anatomy.depth - 1}")
            if channels[-1] >= (width := parts.blocks[block].mlp.fc2.in_features):
                raise refuse(f"the MLP of block {block} has no channel {channels[-1]}, only 0 to {width - 1}")
        return anatomy


def attached_registers(model: nn.Module) -> AttachedRegisters | None:
    """Return the record of the test-time registers of a network; None where it has none."""
    blocks = getattr(model, "blocks", None)
    return blocks.record if isinstance(blocks, RegisterBlocks) else None
