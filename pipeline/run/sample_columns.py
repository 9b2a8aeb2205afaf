"""Columns of the sample table that a run computes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.read import DecodedSample
from schemas.errors import CorruptShardError
from schemas.run import RunSpec
from schemas.samples import may_lack
from schemas.targets import is_text


def check_unchanged(samples: Iterable[DecodedSample], stored: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that samples are those that have maps.

    Args:
        samples: of a shard, as they are now.
        stored: rows of all samples of that shard.

    Raises:
        CorruptShardError: one has another key, image, label or text.
    """
    for sample in samples:
        if sample.ordinal >= len(stored):
            return  # the number of samples is compared at the end
        row = stored[sample.ordinal]
        if sample.key != row["key"]:
            raise CorruptShardError(
                f"{row['shard']}: sample {sample.ordinal} was {row['key']} and is {sample.key} now; plan another atlas"
            )
        image_sha256 = sample.image.sha256 if sample.image else None
        texts = tuple(text for text in row["target_texts"] or () if text is not None)
        labels = () if row["labels"] is None else sample.labels  # earlier versions kept only those that have maps
        now, before = (sample.label, labels, sample.texts), (row["label"], tuple(row["labels"] or ()), texts)
        if (image_sha256, *now) != (row["image_sha256"], *before):
            raise CorruptShardError(
                f"{row['shard']}: image, label or text of {sample.key}, which has maps, were changed; restore them, or "
                "plan another atlas"
            )


def sample_columns(sample: DecodedSample) -> dict[str, Any]:
    """Return the columns of a sample that do not depend on the network."""
    row: dict[str, Any] = {
        "ordinal": sample.ordinal,
        "key": sample.key,
        "member": sample.member,
        "status": sample.status,
        "error": sample.error,
        "label": sample.label,
        "labels": list(sample.labels) or None,
    }
    if sample.image is None:
        return row
    image, transform = sample.image, sample.image.transform
    return row | {
        "width": image.width,
        "height": image.height,
        "orientation": image.orientation,
        "scale_x": transform.scale_x,
        "scale_y": transform.scale_y,
        "offset_x": transform.offset_x,
        "offset_y": transform.offset_y,
        "image_bytes": image.size,
        "image_sha256": image.sha256,
        "fallback": image.fallback,
    }


def prediction_columns(
    logits: NDArray[np.float64], probabilities: NDArray[np.float64], sample: DecodedSample
) -> dict[str, Any]:
    """Return the columns of the prediction. The logits give the order: sigmoids of different ones may equal 1."""
    prediction = int(logits.argmax())
    columns: dict[str, Any] = {"prediction": prediction, "probability": float(probabilities[prediction])}
    labels = [label for label in (sample.label, *sample.labels) if label is not None and 0 <= label < len(logits)]
    if labels:
        columns["label_rank"] = int((logits > logits[labels].max()).sum())
    if sample.label in labels:
        columns["label_probability"] = float(probabilities[sample.label])
    return columns


def target_columns(
    spec: RunSpec,
    sample: DecodedSample,
    probabilities: NDArray[np.float64],
    class_ids: Sequence[int],
    similarities: Sequence[float],
) -> dict[str, Any]:
    """Return the columns that have a value for each of K targets, null where the target has none.

    Args:
        spec: of the run.
        sample: with its labels and texts.
        probabilities: [C].
        class_ids: K; those of texts are no classes of the network, and those of labels that there are not any.
        similarities: T, of the text targets.
    """
    present = {f"label:{place}" for place in range(1, len(sample.labels) + 1)}
    classes = [
        None if is_text(target) or (may_lack(target) and target not in present) else class_id
        for target, class_id in zip(spec.target_names, class_ids, strict=True)
    ]
    columns: dict[str, Any] = {
        "target_classes": classes,
        "target_probabilities": [None if class_id is None else float(probabilities[class_id]) for class_id in classes],
    }
    if sample.texts:
        by_target = [dict(zip(spec.text_targets, values, strict=True)) for values in (sample.texts, similarities)]
        names = ("target_texts", "target_similarities")
        columns |= {
            name: [values.get(target) for target in spec.target_names]
            for name, values in zip(names, by_target, strict=True)
        }
    return columns
