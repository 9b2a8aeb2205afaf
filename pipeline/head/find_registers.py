"""Find the neurons that give patch tokens their large norms, for test-time registers."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import upcast
from pipeline.explain.head import backbone_hash
from pipeline.explain.load import LoadedModel, absolute_model_spec, describe_loaded, load_weights
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.preprocess import Normalize
from pipeline.explain.registers import Registers
from pipeline.explain.token_norms import summarize_norms, token_norms
from pipeline.head.backbone import with_any_head
from pipeline.read import DecodedSample, DecoderPool, PreprocessConfig, count_disjoint, iter_batches, resolve_pattern
from pipeline.utils.random import rng_for
from schemas.errors import UsageError
from schemas.found_registers import FindRegistersSpec, FoundRegisters
from schemas.registers import RegistersRecord
from schemas.shard_record import ShardRecord

_MOST_SHARDS = 8
"""Shards that images are drawn from: a shard is read from its start."""
_QUIET = 0.5
"""Activation below which a token counts as quiet; a neuron is sparse in an image if half of the tokens are."""

Progress = Callable[[int, int], None]


def find_registers(
    spec: FindRegistersSpec, device: str = "auto", progress: Progress = lambda done, total: None
) -> FoundRegisters:
    """Find the neurons of test-time registers, write their file, and measure what they change.

    Outliers are patch tokens whose norm after a block exceeds a threshold. The score of a neuron, a channel of the
    hidden layer of an MLP, is the mean of |activation| over the outliers of an image, mean over the images that have
    outliers; in an image where less than half of the tokens have an activation below 0.5 it counts 0. Those with the
    highest scores are chosen (Jiang et al., NeurIPS 2025, as in the authors' code, which looks for outliers among
    prefix tokens too).

    Args:
        spec: what to find.
        device: ``cpu``, ``cuda``, or ``auto``, which is a GPU if there is one.
        progress: called with the number of batches that are done and of all.

    Returns:
        How they were found.

    Raises:
        UsageError: network, shards, blocks or output are invalid, or no patch token is an outlier.
        UnsupportedModel: see ``Registers.attach``.
        CorruptShardError: a shard cannot be read.
    """
    if not Path(spec.out).absolute().parent.is_dir():
        raise UsageError(f"{spec.out}: there is no folder {Path(spec.out).parent}; create it first")
    if os.path.exists(spec.out):
        Registers.load(spec.out)  # no other file is overwritten
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise UsageError("there is no GPU here that torch can use; use --device cpu, or fix its driver")
    shards, _ = count_disjoint(tuple(map(resolve_pattern, spec.shards)), (), spec.grouping)
    loaded = _load(spec)
    model, anatomy = loaded.model.to("cuda" if has_gpu and device != "cpu" else "cpu"), loaded.transformer
    block, highest = (_place(name, getattr(spec, name), anatomy.depth) for name in ("block", "highest_block"))
    Registers(RegistersRecord(neurons={})).check(model)  # before the images are read
    pixels = _draw_images(spec, shards, loaded)
    normalize = Normalize(loaded.record.mean, loaded.record.std, next(model.parameters()))
    batches = np.array_split(pixels, -(-len(pixels) // spec.batch_size))
    total = 3 * len(batches)

    def images(first: int) -> Iterator[Tensor]:
        for index, batch in enumerate(batches, first):
            yield normalize(torch.as_tensor(batch).to(normalize.device))
            progress(index + 1, total)

    with preserve_model_state(model):
        norms = _measure(model, anatomy, images(0))
        summary = summarize_norms(norms, spec.threshold)
        if summary is None:
            raise UsageError(f"{spec.model.name}: the norms of its tokens are not finite")
        block = summary.worst_block(anatomy.readout) if block is None else block
        threshold, count = summary.threshold[block], summary.outliers[block]
        if not count:
            raise UsageError(
                f"{spec.model.name}: after block {block} none of {summary.images * summary.patches:,} patch tokens has "
                f"a norm above {threshold:.4g}; the median is {summary.median[block]:.4g}, the largest "
                f"{summary.largest[block]:.4g}. Choose another --block or --threshold, or do without registers"
            )
        if highest is None:
            later = summarize_norms(norms, threshold)
            assert later is not None
            highest = next(index for index in range(block + 1) if later.outliers[index] >= count / 2)
        scores = _score(model, anatomy, images(len(batches)), norms[:, block] > threshold)
    chosen = np.argsort(-scores[: highest + 1], axis=None, kind="stable")[: spec.neurons]
    width = scores.shape[1]
    neurons: dict[int, tuple[int, ...]] = {}
    for place in chosen[scores.flat[chosen] > 0].tolist():
        neurons[place // width] = (*neurons.get(place // width, ()), place % width)
    record = RegistersRecord(neurons=neurons, backbone=backbone_hash(model))
    Registers(record).attach(model)
    with preserve_model_state(model):
        after = summarize_norms(_measure(model, anatomy, images(2 * len(batches))), threshold)
    found = FoundRegisters(
        model=spec.model.name,
        images=summary.images,
        block=block,
        highest_block=highest,
        threshold=threshold,
        ratio=summary.ratio(block),
        images_with_outliers=summary.images_with_outliers[block],
        share=summary.share(block),
        share_with_registers=after.share(block) if after else 1.0,
    )
    provenance = found.to_bytes().decode()
    Registers(record.model_copy(update={"provenance": provenance})).save(spec.out)
    return found


def _load(spec: FindRegistersSpec) -> LoadedModel:
    """Load the network; one without a classifier gets one of zeros, since neurons do not depend on it."""

    def check(skeleton: nn.Module) -> None:
        Registers(RegistersRecord(neurons={})).check(with_any_head(skeleton, spec.model.name))

    model, options, conversion = load_weights(absolute_model_spec(spec.model), True, check)
    return describe_loaded(spec.model.name, with_any_head(model, spec.model.name), options, conversion)


def _place(name: str, block: int | None, depth: int) -> int | None:
    """Return the index of a block that may be counted from the end."""
    if block is None:
        return None
    if not -depth <= block < depth:
        raise UsageError(f"--{name.replace('_', '-')} {block}: there are blocks 0 to {depth - 1}, or −{depth} to −1")
    return block % depth


def _draw_images(spec: FindRegistersSpec, shards: Sequence[ShardRecord], loaded: LoadedModel) -> NDArray[np.uint8]:
    """Read images that are drawn at random from a few shards: uint8 [M, 3, H, W]."""
    rng = rng_for("registers", spec.seed)
    some = [shards[index] for index in sorted(rng.permutation(len(shards))[:_MOST_SHARDS])]
    count = sum(shard.samples for shard in some)
    drawn = np.zeros(count, bool)
    drawn[rng.permutation(count)[: spec.images]] = True
    frame = PreprocessConfig.for_model(loaded.record, spec.geometry, spec.exif)
    images: list[NDArray[np.uint8]] = []
    first = 0
    with DecoderPool(0) as decoder:
        for shard in some:
            wanted = frozenset(np.flatnonzero(drawn[first : first + shard.samples]).tolist())
            first += shard.samples

            def is_drawn(sample: DecodedSample, wanted: frozenset[int] = wanted) -> bool:
                return sample.ordinal in wanted

            batches = iter_batches(
                shard,
                shard.samples,
                frame,
                spec.batch_size,
                None,
                decoder,
                predicate=is_drawn,
                grouping=spec.grouping,
            )
            images += [
                pixels
                for batch in batches
                for sample, pixels in zip(batch.samples, batch.pixels, strict=True)
                if sample.image is not None
            ]
    if not images:
        raise UsageError(f"{', '.join(spec.shards)}: none of the images that were drawn can be read")
    return np.stack(images)


def _measure(model: nn.Module, anatomy: Anatomy, images: Iterator[Tensor]) -> NDArray[np.float64]:
    """Compute the norms of the patch tokens after each block: [M, L, N]."""
    norms = [token_norms(model, batch)[:, :, anatomy.patch_tokens].double().cpu().numpy() for batch in images]
    return np.concatenate(norms)


@torch.no_grad()
def _score(model: Any, anatomy: Anatomy, images: Iterator[Tensor], outliers: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the scores of all neurons: [L, k].

    Args:
        model: the network.
        anatomy: its description.
        images: batches of M images.
        outliers: [M, N].
    """
    widths = [block.mlp.fc2.in_features for block in model.blocks]
    total = np.zeros((anatomy.depth, max(widths)))

    def hook(index: int, weights: Tensor) -> Callable[..., None]:
        def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            hidden = upcast(args[0])
            means = torch.einsum("bn,bnk->bk", weights.to(hidden), hidden[:, anatomy.patch_tokens].abs())
            sparse = (hidden < _QUIET).float().mean(1) >= 0.5
            total[index, : widths[index]] += (means * sparse).sum(0).double().cpu().numpy()

        return add

    first = 0
    for batch in images:
        at = torch.from_numpy(outliers[first : first + len(batch)]).to(batch.device)
        first += len(batch)
        weights = at / at.sum(1, keepdim=True).clamp(min=1)

        with ExitStack() as stack:
            for index, block in enumerate(model.blocks):
                # The hidden layer behind activation and product, in every MLP.
                stack.enter_context(block.mlp.norm.register_forward_pre_hook(hook(index, weights)))
            model(batch)
    scores: NDArray[np.float64] = total / max(1, int(outliers.any(1).sum()))
    return scores
