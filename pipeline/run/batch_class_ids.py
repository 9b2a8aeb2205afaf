"""The classes that the maps of a batch explain."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.explain.explainer import ClassIdsFn
from pipeline.read import DecodedSample
from pipeline.run.extended_shard import ExtendedShard
from pipeline.run.gpu_decode import to_device
from schemas.run_record import RunRecord
from schemas.targets import most_labels


def batch_class_ids(
    run: RunRecord,
    samples: Sequence[DecodedSample],
    texts: Tensor,
    device: torch.device,
    extended: ExtendedShard | None = None,
) -> ClassIdsFn:
    """Return a function that gives the class id of each target of a batch: int64 [b, K], from logits [b, C].

    Args:
        run: record of the run.
        samples: B, of the batch.
        texts: int64 [B, T], the classes that stand for the texts of the samples.
        device: of the class ids.
        extended: shard of the atlas that a part extends, whose classes are known.
    """
    classes, width = run.model.classes, max(1, most_labels(run.spec.targets))
    labels = to_device(torch.tensor([_usable_labels(sample, classes, width) for sample in samples]), device)
    ordinals = [sample.ordinal for sample in samples]
    targets = [target.partition(":")[::2] for target in run.spec.target_names]

    def class_ids(rows: slice, logits: Tensor) -> Tensor:
        columns, own_texts = [], iter(texts[rows].unbind(1))
        logits = logits[:, :classes]
        for name, argument in targets:
            if name == "label":
                columns.append(labels[rows, int(argument or 1) - 1])
            elif name == "predicted":
                columns.append(logits.argmax(1))
            elif name == "top":  # of equal logits the first class, as argmax
                columns.append(logits.sort(dim=1, descending=True, stable=True).indices[:, int(argument) - 1])
            elif name == "text":
                columns.append(next(own_texts))
            else:
                columns.append(torch.full_like(labels[rows, 0], int(argument)))
        computed = torch.stack(columns, 1)
        return extended.class_ids(ordinals[rows], computed) if extended else computed

    return class_ids


def _usable_labels(sample: DecodedSample, classes: int, count: int) -> list[int]:
    """Return the first labels; where there is none a usable class, whose map is not kept and costs nothing further."""
    given = sample.labels or (() if sample.label is None else (sample.label,))
    usable = [label for label in given[:count] if 0 <= label < classes] or [0]
    return usable + [usable[0]] * (count - len(usable))
