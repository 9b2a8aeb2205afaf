"""Modules that test-time registers become on a network."""

import torch
from torch import Tensor, nn

from schemas.registers import AttachedRegisters, RegisterValue


class RegisterBlocks(nn.Sequential):
    """Blocks that run on one more token, a test-time register: [B, n, D] → [B, n, D].

    It begins as zeros behind the last patch, without a position, and is dropped behind the last block. The blocks
    called one by one, as by ``forward_intermediates``, do not get it.

    Attributes:
        registers: number of registers.
        record: what the register does.
    """

    registers = 1

    def __init__(self, blocks: nn.Sequential, record: AttachedRegisters) -> None:
        super().__init__(*blocks)
        self.record = record

    def forward(self, tokens: Tensor) -> Tensor:
        """Append the register, run the blocks, drop the register."""
        register = tokens.new_zeros(len(tokens), self.registers, tokens.shape[2])
        output: Tensor = super().forward(torch.cat([tokens, register], 1))
        return output[:, : -self.registers]


class RegisterShift(nn.Module):
    """Move some channels of an MLP's hidden layer from the patches to the register, which is the last token.

    The register takes the value of the largest size over all tokens, patches take 0, prefix tokens keep theirs. It
    stands in the place of a dropout, behind the activation function and the product of a gated MLP.

    Args:
        channels: of the hidden layer.
        prefix_tokens: number of tokens before the patches.
        value: ``neuron``: the largest value of each channel; ``block``: of all these channels, for each of them.
    """

    channels: Tensor

    def __init__(self, channels: Tensor, prefix_tokens: int, value: RegisterValue) -> None:
        super().__init__()
        self.register_buffer("channels", channels, persistent=False)
        self.prefix_tokens, self.value = prefix_tokens, value

    def forward(self, hidden: Tensor) -> Tensor:
        """Move the channels of hidden layers [B, m, k]; m prefix tokens alone have nothing to move."""
        if hidden.shape[1] <= self.prefix_tokens:
            return hidden
        values = hidden[..., self.channels]
        register = values.gather(1, values.abs().argmax(1, keepdim=True))
        if self.value == "block":
            largest = register.abs().argmax(2, keepdim=True)
            register = register.gather(2, largest).expand_as(register)
        patches = torch.zeros_like(values[:, self.prefix_tokens : -1])
        moved = torch.cat([values[:, : self.prefix_tokens], patches, register], 1)
        return hidden.index_copy(2, self.channels, moved)

    def relevance(self, hidden: Tensor, relevance: Tensor) -> Tensor:
        """Return to each token the relevance [B, m, k] of what was moved.

        Args:
            hidden: its input, [B, m, k].
            relevance: of its output.
        """
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            (result,) = torch.autograd.grad(self(leaf), leaf, relevance)
        return result
