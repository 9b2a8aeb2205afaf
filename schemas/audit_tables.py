"""Tables in the folder of an audit: their columns, with descriptions, and the files that they are in."""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from schemas.arrow import CATEGORY, column, description, optional, schema
from schemas.metrics import FAITHFULNESS_METRICS, METRIC_DESCRIPTIONS, METRIC_SUMMARY, METRIC_VALUES, SANITY_METRICS

TOP_SHARES: Mapping[str, float] = {"top5": 0.05, "top10": 0.1, "top20": 0.2}
"""Overlap metrics, and the share of the cells that each compares."""

AGREEMENT_METRICS: Mapping[str, str] = {
    "spearman": "rank correlation of the two maps; 1 where they are equal",
    "pearson": "correlation of the two maps",
    "top5": "share of the highest 5 % of the cells that both maps have in common",
    "top10": "share of the highest 10 % of the cells that both maps have in common",
    "top20": "share of the highest 20 % of the cells that both maps have in common",
    "iou": "intersection over union of the cells above Otsu's threshold",
}
"""Metrics of the agreement of two maps, with their descriptions; see ``pipeline.audit.agreement.compare_maps``."""

MAP_STATISTICS: Mapping[str, str] = {
    "entropy": "entropy of the map's mass divided by its maximum; 1 for an even map",
    "gini": "Gini index of the map; 0 for an even map",
    "effective_area": "share of the cells that the same mass would fill evenly",
    "center_y": "center of the map's mass, from 0 at the top to 1 at the bottom",
    "center_x": "center of the map's mass, from 0 at the left to 1 at the right",
    "border_mass": "share of the mass in a frame whose width is an eighth of the image",
    "corner_mass": "share of the mass in the four corners of that frame",
    "object_mass": "share of the mass on the object; null without truth",
    "agreement": "mean rank correlation with the maps of all other methods, controls included",
}
"""Statistics of a map, with descriptions; see ``pipeline.audit.map_statistics``. All but the last are in [0, 1]."""

SAMPLED_METRICS = (*FAITHFULNESS_METRICS, *SANITY_METRICS)
"""Metrics that run the network again, and so only on a random sample of the images; see ``schemas.metrics``."""

QUARANTINED, PENDING, DEGENERATE = "quarantined", "pending", "degenerate"
"""Values of ``status`` in ``COMPLETENESS`` beside those of samples: of whole shards that could not be computed or are
not computed yet, and of maps that are constant or were not finite."""

SAME_BATCH, OTHER_BATCH = "same_batch", "other_batch"
"""Values of ``kind`` in ``REPRODUCIBILITY``."""

_METHOD = column("method", CATEGORY, "name of the attribution method, with its options")
_TARGET = column("target", CATEGORY, "target kind: which class is explained, the label or the predicted one")
_CLASS = column("class", pa.int32(), "class id that the map explains")
_MEAN_CLASS = optional("class", pa.int32(), "class id; null in the row of all classes together")
_ROW = column("row", pa.int64(), "index of the sample into all arrays of the atlas")
_FIRST = column("first", CATEGORY, "name of the first method")
_SECOND = column("second", CATEGORY, "name of the second method")
_CELL = (
    column("y", pa.int32(), "row of that cell in the patch grid"),
    column("x", pa.int32(), "column of that cell in the patch grid"),
)
_STATISTICS = [optional(name, pa.float64(), text) for name, text in MAP_STATISTICS.items()]
_AGREEMENT = [
    optional(name, pa.float64(), f"{text}; null where either map is degenerate")
    for name, text in AGREEMENT_METRICS.items()
]
_OBJECT_AREA = optional("object_area", pa.float64(), "share of the image that is object: object_mass of an even map")
_SAMPLED = [
    optional(name, pa.float64(), f"{METRIC_DESCRIPTIONS[name]}; null for images outside of the sample")
    for name in SAMPLED_METRICS
]

IMAGES = schema(
    _ROW,
    column("key", pa.string(), "WebDataset key of the sample"),
    _CLASS,
    optional("correct", pa.bool_(), "the predicted class is the label; null without a label"),
    _METHOD,
    column("flag", CATEGORY, "ok, or why the map is degenerate: constant, not_finite, isolated (single patches)"),
    *_STATISTICS,
    _OBJECT_AREA,
    optional(
        "agreement_rank", pa.int32(), "rank of the method among those of the image; 1 agrees best with the others"
    ),
    *_SAMPLED,
)
"""One row per image that has maps, and method. ``MAP_STATISTICS`` are null where it is constant or was not finite."""

PAIRS = schema(_ROW, _CLASS, _FIRST, _SECOND, *_AGREEMENT)
"""One row per image that has maps, and pair of methods."""

METHODS = schema(
    _METHOD,
    _MEAN_CLASS,
    column("images", pa.int64(), "number of images"),
    column("degenerate", pa.int64(), "number of images whose map is constant or was not finite"),
    optional("correct", pa.float64(), "share of the images whose predicted class is the label"),
    *_STATISTICS,
    _OBJECT_AREA,
    *_SAMPLED,
)
"""Means of ``IMAGES``: one row per method and class, and one for all classes, whose ``class`` is null.

Degenerate maps count only in the means of ``correct``, ``object_area`` and ``SAMPLED_METRICS``.
"""

AGREEMENT = schema(
    _FIRST,
    _SECOND,
    _MEAN_CLASS,
    column("images", pa.int64(), "number of images"),
    column("undefined", pa.int64(), "number of images in which either map is degenerate; they are in no mean"),
    *_AGREEMENT,
)
"""Means of ``PAIRS``: one row per pair of methods and class, and one for all classes, whose ``class`` is null."""

SHORTCUTS = schema(
    _METHOD,
    _TARGET,
    _CLASS,
    column("maps", pa.int64(), "number of maps of the class"),
    column("degenerate", pa.int64(), "number of maps that are left out: they are constant or were not finite"),
    column("rank", pa.int64(), "rank among the classes of the method; 1 is the most suspicious"),
    column("alarm", pa.bool_(), "excess is above the threshold"),
    column(
        "excess",
        pa.float64(),
        "lower bound, at 95 % confidence, of how much more often one cell is an outlier in the maps of the class "
        "than in other maps; see pipeline.audit.fixed_location_test",
    ),
    *_CELL,
    column("outlier_share", pa.float64(), "share of the maps of the class in which that cell is an outlier"),
    column("outlier_share_others", pa.float64(), "the same share of the maps of all other classes"),
    column("high_share", pa.float64(), "share of these outliers whose value is high; the others are low"),
    column("clusters", pa.int32(), "number of clusters of the maps of the class"),
    column("eigengap", pa.float64(), "gap between the eigenvalues by which the number of clusters was chosen"),
    column("eigenvalues", pa.list_(pa.float64()), "least eigenvalues of the Laplacian of the maps' graph, ascending"),
)
"""One row per method and class that has maps, most suspicious first."""

SUSPICIOUS_CLASSES = schema(
    _CLASS,
    column("rank", pa.int64(), "rank in this table; 1 is the most suspicious"),
    column("methods", pa.int64(), "number of methods that have maps of the class"),
    column("alarms", pa.int64(), "number of methods that raise an alarm at one place; 0 if less than a quarter"),
    column("best_rank", pa.int64(), "best rank of the class in the rankings of the methods"),
    column("mean_rank", pa.float64(), "mean rank of the class in the rankings of the methods"),
    column("excess", pa.float64(), "highest excess of any method, see shortcuts"),
    column("method", CATEGORY, "method with the highest excess"),
    *_CELL,
)
"""One row per class over all methods but the controls, most suspicious first."""

CLUSTERS = schema(
    _METHOD,
    _TARGET,
    _CLASS,
    column("cluster", pa.int32(), "index of the cluster within its class, largest first"),
    column("maps", pa.int64(), "number of maps in it"),
    column("central_row", pa.int64(), "row of the sample whose map is nearest to the prototype"),
    column("outlier_share", pa.float64(), "share of its maps in which the cell of the class is an outlier"),
    column("prototype", pa.list_(pa.float32()), "mean of its L1-normalized maps, row by row of the patch grid"),
)
"""One row per cluster of the maps of a class (SpRAy), largest first."""

CLUSTER_MEMBERS = schema(
    _METHOD,
    _TARGET,
    _ROW,
    column("cluster", pa.int32(), "index of the cluster of the map, within its class"),
    column(
        "embedding",
        pa.list_(pa.float32()),
        "entries of the first eigenvectors of the graph of its class: as many as a class may have clusters, or as "
        "it has maps",
    ),
)
"""One row per map that was clustered."""

LINEAGE = schema(
    column("product", CATEGORY, "maps, or the folder of labels, scores or tables"),
    column("shard", CATEGORY, "short name of the shard"),
    column("settings_hash", CATEGORY, "hash of the run, policy or protocol that the product was made with"),
    column(
        "parent_hash",
        pa.string(),
        "for maps, hash of the keys and encoded bytes of all images of the shard; for other products, content_hash "
        "of the maps",
    ),
    column("content_hash", pa.string(), "hash of the objects of the shard"),
    column("commit_hash", pa.string(), "SHA-256 of the commit"),
    column("objects", pa.int64(), "number of objects"),
    column("bytes", pa.int64(), "total size of the objects"),
)
"""One row per shard of the maps, and of each product that was derived from them."""

COMPLETENESS = schema(
    column("shard", CATEGORY, "short name of the shard"),
    column("kind", CATEGORY, "samples, or maps of a method"),
    optional("method", CATEGORY, "name of the method; null for samples"),
    column("status", CATEGORY, "ok, or what is wrong"),
    optional("reason", pa.string(), "kind of error, without details of single samples; null if ok"),
    column("count", pa.int64(), "number of samples or maps with this status and reason"),
    column("expected", pa.int64(), "sum of the counts of the shard (and method)"),
)
"""Counts of all planned samples and of their maps, by status.

``status`` of samples is a ``schemas.samples.SampleStatus``, or ``quarantined`` or ``pending`` with the whole shard; of
maps, of all target kinds together, ``ok`` or ``degenerate``. ``expected`` is the number of planned samples of the
shard, or of its present samples where it was damaged when it was planned and has been fixed since.
"""

REPRODUCIBILITY = schema(
    column("kind", CATEGORY, "same_batch: recomputed in the batches of the run; other_batch: with another batch size"),
    column("batch_size", pa.int32(), "number of images in a batch"),
    optional("method", CATEGORY, "name of the method; null in the row of the network itself"),
    optional("target", CATEGORY, "target kind; null in the row of the network itself"),
    column("sampled", pa.int64(), "number of samples that were chosen"),
    column("recomputed", pa.int64(), "number of samples that could be recomputed"),
    optional(
        "equal_share",
        pa.float64(),
        "share of the maps that are bitwise equal; for the network, of samples with the same prediction",
    ),
    optional(
        "max_difference",
        pa.float64(),
        "largest absolute difference of values in [0, 1]; for the network, of its probability",
    ),
    optional(
        "mean_difference",
        pa.float64(),
        "mean absolute difference of values in [0, 1]; for the network, of its probability",
    ),
    optional(
        "min_spearman",
        pa.float64(),
        "lowest rank correlation of a stored and a recomputed map; null where none is defined, as of constant maps",
    ),
    optional(
        "mean_spearman", pa.float64(), "mean rank correlation of stored and recomputed maps; null where none is defined"
    ),
)
"""Comparison of recomputed with stored maps: one row per kind, method and target kind."""


class AuditTable(NamedTuple):
    """A table in the folder of an audit.

    Attributes:
        name: name under which it is loaded.
        files: path below the folder of the audit; a glob where there is one file per shard.
        schema: its columns; further columns may be added.
        row: what one row is for, as in "one row per …".
    """

    name: str
    files: str
    schema: pa.Schema
    row: str

    @property
    def per_shard(self) -> bool:
        """True if there is one file per shard."""
        return "*" in self.files

    def describe(self, name: str) -> str:
        """Return the description of a column as plain text; empty for a column that is not in the schema."""
        index = self.schema.get_field_index(name)
        return description(self.schema.field(index)).replace("``", "") if index >= 0 else ""


def _metric_tables(suite: str, metric: str) -> tuple[AuditTable, AuditTable]:
    row = f"method, target kind and {metric}"
    summary = f"{row}, with means over a sample of the images"
    return (
        AuditTable(suite, f"{suite}/summary.parquet", METRIC_SUMMARY, summary),
        AuditTable(f"{suite}_values", f"{suite}/values/*.parquet", METRIC_VALUES, f"image, {row}"),
    )


TABLES: tuple[AuditTable, ...] = (
    AuditTable("methods", "methods.parquet", METHODS, "method and class, with means over its images"),
    AuditTable("images", "images/*.parquet", IMAGES, "image and method"),
    AuditTable("agreement", "agreement.parquet", AGREEMENT, "pair of methods and class, with means over its images"),
    AuditTable("pairs", "pairs/*.parquet", PAIRS, "image and pair of methods"),
    AuditTable("shortcuts", "shortcuts.parquet", SHORTCUTS, "method and class, most suspicious of a shortcut first"),
    AuditTable("suspicious", "suspicious.parquet", SUSPICIOUS_CLASSES, "class, over all methods but the controls"),
    AuditTable("clusters", "clusters.parquet", CLUSTERS, "cluster of the maps of a class"),
    AuditTable("members", "members.parquet", CLUSTER_MEMBERS, "map that was clustered"),
    AuditTable("lineage", "lineage.parquet", LINEAGE, "product and shard"),
    AuditTable("completeness", "completeness.parquet", COMPLETENESS, "shard and status of samples or maps"),
    AuditTable(
        "reproducibility",
        "reproducibility.parquet",
        REPRODUCIBILITY,
        "batch size, method and target kind of recomputed maps, and per batch size of predictions (null method)",
    ),
    *_metric_tables("faithfulness", "faithfulness metric"),
    *_metric_tables("sanity", "sanity check"),
)
"""All tables that may be in a folder; those of metrics that were not requested are missing."""
