"""The tables of an audit, and what they are made from."""

import pyarrow as pa

from schemas.arrow import CATEGORY
from schemas.metrics import FAITHFULNESS_METRICS, SANITY_METRICS

_WHOSE = (pa.field("method", CATEGORY, nullable=False), pa.field("target", CATEGORY, nullable=False))

SHORTCUTS = pa.schema(
    [
        *_WHOSE,
        pa.field("class", pa.int32(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("maps", "degenerate", "rank")),
        pa.field("alarm", pa.bool_(), nullable=False),
        pa.field("locked", pa.float64(), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("y", "x")),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("share", "others", "above")),
        pa.field("clusters", pa.int32(), nullable=False),
        pa.field("gap", pa.float64(), nullable=False),
        pa.field("eigenvalues", pa.list_(pa.float64()), nullable=False),
    ]
)
"""Is a class decided by a shortcut? One row for each method and class that has maps, most suspicious first.

- ``method``, ``target`` – whose maps. ``class`` – that they explain: the label, or the predicted class.
- ``maps`` – that were looked at; ``degenerate`` – left out, because they are constant or were not finite.
- ``rank`` – among the classes of the method, 1 is the most suspicious. ``alarm`` – whether it is above the threshold.
- ``locked`` – by how much at least the class's maps stand out at one place more often than others do; see
  ``pipeline.audit.fixed_location_test``. ``y``, ``x`` – that cell of the patch grid. ``share``, ``others`` – how often it stands
  out of maps of the class, and of all other classes; ``above`` – how often it does so because its value is high: in
  the others it is a hole.
- ``clusters`` – of the class's maps; ``eigenvalues`` – of their graph, and the ``gap`` behind which it was cut.
"""

SUSPICIOUS_CLASSES = pa.schema(
    [
        pa.field("class", pa.int32(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("rank", "methods", "alarms", "best_rank")),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("mean_rank", "locked")),
        pa.field("method", CATEGORY, nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("y", "x")),
    ]
)
"""What all methods but the controls say of a class: one row for each, most suspicious first.

- ``rank`` – in this table. ``methods`` – that have maps of the class; ``alarms`` – how many of them raise one;
  ``best_rank``, ``mean_rank`` – of the class in their rankings.
- ``locked``, ``method``, ``y``, ``x`` – of ``SHORTCUTS``, where ``locked`` is highest: by what and where one sees it.
"""

CLUSTERS = pa.schema(
    [
        *_WHOSE,
        *(pa.field(name, pa.int32(), nullable=False) for name in ("class", "cluster")),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("maps", "central")),
        pa.field("share", pa.float64(), nullable=False),
        pa.field("prototype", pa.list_(pa.float32()), nullable=False),
    ]
)
"""The ways in which a network looks at a class: one row a cluster of maps, largest first.

- ``maps`` – in it. ``central`` – row of the sample whose map is nearest to the ``prototype``, the mean of the
  L1-normalised maps, row by row. ``share`` – of its maps, out of which the cell of the class in ``SHORTCUTS`` stands.
"""

CLUSTER_MEMBERS = pa.schema(
    [
        *_WHOSE,
        pa.field("row", pa.int64(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Which ``cluster`` of its class the map of a sample (``row``) is in.

``embedding`` – its coordinates: entries of the first eigenvectors of the graph of its class, as many as a class may
have clusters, or as it has maps.
"""

TOP_SHARES = {"top5": 0.05, "top10": 0.1, "top20": 0.2}
"""Measures of overlap, and the share of the cells that they look at."""
AGREEMENT_METRICS = ("spearman", "pearson", *TOP_SHARES, "iou")
"""Of the agreement of two maps, 1 where they are equal; see ``pipeline.audit.agreement.compare``."""

MAP_STATISTICS = (
    "entropy",
    "gini",
    "effective_area",
    "centre_y",
    "centre_x",
    "border",
    "corners",
    "inside",
    "agreement",
)
"""Of a map, all in [0, 1] but the last; see ``pipeline.audit.map_statistics``. Null where the map says nothing.

- ``inside`` – mass on the object, null where no truth is known of the picture.
- ``agreement`` – mean rank correlation with the maps of all other methods, controls too; null without another.
"""

SAMPLED_METRICS = (*FAITHFULNESS_METRICS, *SANITY_METRICS)
"""Figures for which the network was asked again, of the pictures that were drawn for it; see ``schemas.metrics``."""

IMAGES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("class", pa.int32(), nullable=False),
        pa.field("correct", pa.bool_()),
        pa.field("method", CATEGORY, nullable=False),
        pa.field("flag", CATEGORY, nullable=False),
        *(pa.field(name, pa.float64()) for name in MAP_STATISTICS),
        pa.field("object", pa.float64()),
        pa.field("agreement_rank", pa.int32()),
        *(pa.field(name, pa.float64()) for name in SAMPLED_METRICS),
    ]
)
"""One row for each picture that has maps, and each method.

- ``class`` – that the map explains. ``correct`` – whether the prediction is the label, null where none is known.
- ``flag`` – ``ok``, or why the map says nothing: ``constant``, ``not_finite``.
- ``object`` – share of what the network saw that is object: ``inside`` of an even map. ``agreement_rank`` – place of
  the method among those of the picture, 1 agrees best with the others.
- ``SAMPLED_METRICS`` – null of pictures that were not drawn, and where it is not defined.
"""

PAIRS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("class", pa.int32(), nullable=False),
        pa.field("first", CATEGORY, nullable=False),
        pa.field("second", CATEGORY, nullable=False),
        *(pa.field(name, pa.float64()) for name in AGREEMENT_METRICS),
    ]
)
"""One row for each picture that has maps, and each two methods: ``AGREEMENT_METRICS``, null where either map says nothing."""

METHODS = pa.schema(
    [
        pa.field("method", CATEGORY, nullable=False),
        pa.field("class", pa.int32()),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("images", "degenerate")),
        pa.field("correct", pa.float64()),
        *(pa.field(name, pa.float64()) for name in (*MAP_STATISTICS, "object", *SAMPLED_METRICS)),
    ]
)
"""Means of ``IMAGES``: one row for each method and class, and one for all classes, whose ``class`` is null.

``degenerate`` – of the ``images`` whose maps say nothing; they are in no mean but those of ``correct``, ``object``
and ``SAMPLED_METRICS``.
"""

AGREEMENT = pa.schema(
    [
        *(pa.field(name, CATEGORY, nullable=False) for name in ("first", "second")),
        pa.field("class", pa.int32()),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("images", "undefined")),
        *(pa.field(name, pa.float64()) for name in AGREEMENT_METRICS),
    ]
)
"""Means of ``PAIRS``: one row for each two methods and each class, and one for all classes, whose ``class`` is null.

``undefined`` – of the ``images`` in which either map says nothing; they are in no mean.
"""


LINEAGE = pa.schema(
    [
        *(pa.field(name, CATEGORY, nullable=False) for name in ("product", "shard", "maker")),
        *(pa.field(name, pa.string(), nullable=False) for name in ("parent", "hash", "commit")),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("objects", "bytes")),
    ]
)
"""What was made of what: one row for each shard of the maps, and of each product that was made of them.

- ``product`` – ``maps``, or the folder of labels, scores or tables. ``maker`` – hash of the run, policy or protocol.
- ``parent`` – hash of what it was made of: of maps, that of the keys and encoded bytes of all pictures of the shard; of
  other products, the ``hash`` of the maps. ``hash`` – of the objects that were made, ``objects`` in number and
  ``bytes`` long. ``commit`` – SHA-256 of the record that says so.
"""

COMPLETENESS = pa.schema(
    [
        pa.field("shard", CATEGORY, nullable=False),
        pa.field("what", CATEGORY, nullable=False),
        pa.field("method", CATEGORY),
        pa.field("status", CATEGORY, nullable=False),
        pa.field("reason", pa.string()),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("expected", pa.int64(), nullable=False),
    ]
)
"""What became of everything that was planned: counts of a shard, and of a method, add up to ``expected``.

- ``what`` – ``samples``; or ``maps`` of a ``method``, of all targets, of the samples that are ``ok``.
- ``status`` – of samples: see ``schemas.samples.SampleStatus``, or ``quarantined`` or ``pending`` with the whole shard; of maps:
  ``ok``, or ``degenerate``, which are constant or were not finite. ``reason`` – kind of error, with all that is special
  to one sample left out; null of what is ok.
- ``count`` – of it. ``expected`` – of the shard, on each of its rows: what was planned, or what is in it where it was
  damaged when it was planned and has been mended since.
"""
QUARANTINED, PENDING, DEGENERATE = "quarantined", "pending", "degenerate"
"""Values of ``status`` in ``COMPLETENESS``: of a shard that could not be done, or is not done yet; of maps."""

REPRODUCIBILITY = pa.schema(
    [
        pa.field("kind", CATEGORY, nullable=False),
        pa.field("batch_size", pa.int32(), nullable=False),
        *(pa.field(name, CATEGORY) for name in ("method", "target")),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("drawn", "rows")),
        *(pa.field(name, pa.float64()) for name in ("equal", "max", "mean", "min_spearman", "mean_spearman")),
    ]
)
"""Maps that were computed again, and compared with those that are stored: one row a kind, method and target.

- ``kind`` – ``same_batch`` as the run had it, ``other_batch`` with another ``batch_size``.
- ``drawn`` – samples; ``rows`` – of them, that could be computed again.
- ``equal`` – share of the maps that are bit by bit what is stored. ``max``, ``mean`` – absolute difference of a value,
  in [0, 1] as it is stored. ``min_spearman``, ``mean_spearman`` – rank correlation of a map and its repetition, null
  where no map has any (constant ones do not).
- ``method`` and ``target`` are null in the row of the network itself, in which ``equal`` is the share of samples whose
  predicted class is the same, and ``max`` and ``mean`` are of its probability.
"""
SAME_BATCH, OTHER_BATCH = "same_batch", "other_batch"
"""Values of ``kind`` in ``REPRODUCIBILITY``."""
