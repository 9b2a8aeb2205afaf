"""The labels of one tar, from the maps of an atlas and, where a policy refines them, from the pictures."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import refuse_commands
from pipeline.label.combine import combine
from pipeline.label.mask import Heat, Label, make
from pipeline.label.refine import refiner
from pipeline.read import Decoders, Frame, batches
from pipeline.store import Atlas, Tar
from schemas.errors import UsageError
from schemas.labels import Verdict
from schemas.layout import Flag
from schemas.policy import Policy
from schemas.samples import Status

_BATCH = 32
"""Pictures that are refined together."""


def check(atlas: Atlas, policy: Policy) -> None:
    """Refuse a policy that cannot be applied to an atlas.

    Raises:
        UsageError: it lacks a method or the target, or has nothing yet.
    """
    try:
        atlas.require(policy.target, policy.methods)
    except UsageError as error:
        raise UsageError(f"policy {policy.name}: {error}") from None


def labels_of(atlas: Atlas, tar: str, policy: Policy, allow_pipe: bool = False) -> Iterator[Label]:
    """Labels of one tar, in its order.

    Args:
        policy: calibrated.
        allow_pipe: a tar whose pictures are needed may be read from the shell command that the atlas names.

    Raises:
        UsageError: see ``check``; the pictures are not those of which the maps are.
        BadTar: they cannot be read.
    """
    frame = atlas.run.model.input_size
    for heat, sample in heats(atlas, tar, policy, allow_pipe):
        if heat is not None:
            yield make(heat, sample, frame, policy)
        else:
            yield Label(sample, Verdict.NO_SIGNAL if sample["status"] == Status.OK else sample["status"])


def heats(
    atlas: Atlas, tar: str, policy: Policy, allow_pipe: bool = False
) -> Iterator[tuple[Heat | None, dict[str, Any]]]:
    """What masks are cut from, with the row of the sample table; None where no map of a sample says anything.

    Maps that are constant or were not finite are left out of those that are combined.

    Raises:
        UsageError, BadTar: see ``labels_of``.
    """
    atlas.offers(policy.target, policy.methods)
    part = atlas.tar(tar)
    if policy.refine is None:
        yield from _heats(part, policy)
        return
    refine = refiner(policy.refine)
    ready = _heats(part, policy)
    for pixels in pictures(atlas, part, allow_pipe):
        group = [next(ready) for _ in range(len(pixels))]
        good = [place for place, (heat, _) in enumerate(group) if heat is not None]
        if good:
            sharp = refine(np.stack([group[place][0].values for place in good]), pixels[good])  # type: ignore[union-attr]
            for place, values in zip(good, sharp, strict=True):
                heat, sample = group[place]
                group[place] = Heat(values, heat.agreement if heat else None), sample
        yield from group


def _heats(part: Tar, policy: Policy) -> Iterator[tuple[Heat | None, dict[str, Any]]]:
    maps = {name: part.maps(name, policy.target) for name in policy.methods}
    bounds = {name: part.ranges(name, policy.target) for name in policy.methods}
    flags = {name: part.flags(name, policy.target) for name in policy.methods}
    for place, sample in enumerate(part.samples.to_pylist()):
        good = [name for name in policy.methods if flags[name][place] == Flag.OK]
        if sample["status"] != Status.OK or not good:
            yield None, sample
            continue
        values, limits = ({name: every[name][place] for name in good} for every in (maps, bounds))
        yield Heat(*combine(values, limits, policy)), sample


def pictures(atlas: Atlas, part: Tar, allow_pipe: bool) -> Iterator[NDArray[np.uint8]]:
    """The network's inputs of all samples of a tar, some at a time: uint8 [B, 3, H, W], black where there is none.

    Raises:
        UsageError, BadTar: see ``labels_of``.
    """
    run, shard = atlas.run, atlas.run.shards[part.commit.tar_index]
    refuse_commands([shard.url], allow_pipe)
    rows = part.samples.select(["key", "status", "image_sha256"]).to_pylist()
    done = 0
    with Decoders(0) as decoders:
        for batch in batches(shard, run.slot, Frame.of(run.model, run.spec.geometry), _BATCH, None, decoders):
            for sample, row in zip(batch.samples, rows[done:], strict=False):
                found = sample.picture.sha256 if sample.picture else None
                if sample.key != row["key"] or (row["status"] == Status.OK and found != row["image_sha256"]):
                    raise UsageError(f"{shard.url}: {sample.key} is not the picture that the atlas has maps of")
            done += len(batch.samples)
            if done > len(rows):
                break
            yield batch.pixels
    if done != len(rows):
        raise UsageError(f"{shard.url}: has not the {len(rows)} samples that the atlas has maps of; is it another tar?")
