"""A file of test-time registers: which neurons of a network they take over from its patch tokens."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from schemas.base import Count, Record, sha256

RegisterValue = Literal["neuron", "block"]


class AttachedRegisters(Record):
    """The test-time registers of a network, as a run records them.

    Attributes:
        hash: SHA-256 of neurons and values.
        blocks: number of blocks with such neurons.
        neurons: number of neurons.
    """

    hash: str
    blocks: Count
    neurons: Count

    def __str__(self) -> str:
        return f"1 at test time, of {self.neurons:,} neurons in {self.blocks:,} blocks"


class RegistersRecord(Record):
    """A file of test-time registers, JSON (Jiang et al., NeurIPS 2025, arXiv 2506.08010).

    Attributes:
        format: version of the file, ``registers/1``.
        neurons: channels of the hidden layer of the MLP, by block; both counted from 0. None: a register that takes
            over nothing, which is attended all the same.
        value: what a register gets: ``neuron``, the value of the largest size over all tokens of each channel;
            ``block``, one value for all channels of a block, as in the authors' code.
        backbone: SHA-256 of the tensors of the network without its head; empty fits any network.
        provenance: how the neurons were found; changes nothing.
    """

    format: Literal["registers/1"] = "registers/1"
    neurons: dict[Count, Annotated[tuple[Count, ...], Field(min_length=1)]]
    value: RegisterValue = "neuron"
    backbone: str = ""
    provenance: str = ""

    @field_validator("neurons")
    @classmethod
    def _check_neurons(cls, neurons: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
        for block, channels in neurons.items():
            if len(set(channels)) < len(channels):
                raise ValueError(f"block {block} names a channel twice")
        return {block: tuple(sorted(neurons[block])) for block in sorted(neurons)}

    @property
    def attached(self) -> AttachedRegisters:
        """What a run records of it."""
        decides = self.model_copy(update={"backbone": "", "provenance": ""})
        count = sum(map(len, self.neurons.values()))
        return AttachedRegisters(hash=sha256(decides.to_bytes()), blocks=len(self.neurons), neurons=count)
