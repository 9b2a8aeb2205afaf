"""The tables of an audit's folder, and the meaning of their columns for people who have nothing but the folder."""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from schemas import audit, metrics


class AuditTable(NamedTuple):
    """A table.

    Attributes:
        name: under which it is loaded.
        files: path below the folder of the audit; a glob where there is one file for each shard.
        schema: of it, at least: columns may be added.
        rows: what a row is.
        own: meanings of columns that mean something else in other tables.
    """

    name: str
    files: str
    schema: pa.Schema
    rows: str
    own: Mapping[str, str] = {}

    @property
    def by_shard(self) -> bool:
        """Whether there is one file for each shard."""
        return "*" in self.files

    def meaning(self, column: str) -> str:
        """One phrase; empty of a column that is not known here."""
        return self.own.get(column, COLUMNS.get(column, ""))


COLUMNS: Mapping[str, str] = {
    "row": "index of the sample into all arrays of the atlas",
    "key": "WebDataset key of the sample",
    "shard": "short name of the shard that the sample is in",
    "class": "index of the class that the map explains",
    "method": "name of the attribution method, with its options",
    "target": "which class is explained: the label, or the predicted one",
    "flag": "ok, or why the map says nothing: constant, not_finite",
    "images": "number of pictures",
    "maps": "number of maps",
    "degenerate": "number of maps that are constant or were not finite",
    "entropy": "entropy of the map's mass divided by its maximum; 1 is an even map, null says nothing",
    "gini": "Gini index of the map; 0 is an even map",
    "effective_area": "share of the cells that as much mass would fill evenly",
    "centre_y": "centre of the map's mass, from 0 at the top to 1 at the bottom",
    "centre_x": "centre of the map's mass, from 0 at the left to 1 at the right",
    "border": "share of the mass in a frame whose width is an eighth of the picture",
    "corners": "share of the mass in the four corners of that frame",
    "inside": "share of the mass on the object; null where no truth is known",
    "object": "share of the picture that is object, which is what an even map has inside",
    "agreement": "mean rank correlation with the maps of all other methods, controls among them",
    "agreement_rank": "place of the method among those of the picture; 1 agrees best with the others",
    "first": "name of the one method",
    "second": "name of the other method",
    "spearman": "rank correlation of the two maps; 1 where they are equal, null where either says nothing",
    "pearson": "correlation of the two maps",
    "top5": "share of the highest 5 % of the cells that both maps have in common",
    "top10": "share of the highest 10 % of the cells that both maps have in common",
    "top20": "share of the highest 20 % of the cells that both maps have in common",
    "iou": "intersection over union of the cells above Otsu's threshold",
    "cluster": "index of the cluster within its class, largest first",
    "share": "share of the maps out of which the cell stands that the class is suspected for",
    "metric": "name of what was measured",
    **dict.fromkeys(metrics.FAITHFULNESS_METRICS, "see faithfulness; null of pictures that were not drawn"),
    **dict.fromkeys(metrics.SANITY_METRICS, "see sanity; null of pictures that were not drawn"),
}
"""Meanings that hold in all tables, by column."""

_FIGURES = {"value": "of the figure; null where it is not defined"}
_SUMMARY = {
    "better": "whether higher or lower values are better",
    "images": "number of pictures that have a value",
    "mean": "mean of them",
    "low": "lower end of the interval, 2.5 % of the bootstrap over pictures",
    "high": "upper end of the interval, 97.5 % of the bootstrap over pictures",
    "note": "what must be known to read the figure; null of most",
}

TABLES: tuple[AuditTable, ...] = (
    AuditTable(
        "methods",
        "methods.parquet",
        audit.METHODS,
        "means over pictures, by method and class",
        {
            "class": "index of the class that maps explain; null in the row of all classes together",
            "correct": "share of the pictures whose predicted class is the label",
        },
    ),
    AuditTable(
        "images",
        "images/*.parquet",
        audit.IMAGES,
        "a picture and a method",
        {"correct": "whether the predicted class is the label; null where there is no label"},
    ),
    AuditTable(
        "agreement",
        "agreement.parquet",
        audit.AGREEMENT,
        "means over pictures, by pair of methods and class",
        {
            "class": "index of the class that maps explain; null in the row of all classes together",
            "undefined": "number of pictures in which either map says nothing, which are in no mean",
        },
    ),
    AuditTable("pairs", "pairs/*.parquet", audit.PAIRS, "a picture and two methods"),
    AuditTable(
        "shortcuts",
        "shortcuts.parquet",
        audit.SHORTCUTS,
        "a method and a class, with how far it is suspected of a shortcut",
        {
            "maps": "number of maps that were looked at",
            "rank": "place among the classes of the method; 1 is the most suspicious",
            "alarm": "whether it is above the threshold",
            "locked": "by how much at least, at 95 % confidence, one cell stands out of the class's maps more often "
            "than of others",
            "y": "row of that cell in the patch grid",
            "x": "column of that cell in the patch grid",
            "others": "share of the maps of all other classes out of which that cell stands",
            "above": "how often it stands out because its value is high; in the others it is a hole",
            "clusters": "number of clusters of the class's maps",
            "gap": "between the eigenvalues behind which the clusters were cut",
            "eigenvalues": "of the graph of the class's maps, least first",
        },
    ),
    AuditTable(
        "suspicious",
        "suspicious.parquet",
        audit.SUSPICIOUS_CLASSES,
        "a class, with what all methods together say of it",
        {
            "rank": "place in this table; 1 is the most suspicious",
            "methods": "number of methods that have maps of the class",
            "alarms": "how many of them raise one",
            "best_rank": "best place of the class in the rankings of the methods",
            "mean_rank": "mean place of the class in the rankings of the methods",
            "locked": "highest of any method, see shortcuts",
            "method": "by which it is highest",
            "y": "row of the cell in the patch grid",
            "x": "column of the cell in the patch grid",
        },
    ),
    AuditTable(
        "clusters",
        "clusters.parquet",
        audit.CLUSTERS,
        "a cluster of the maps of a class",
        {
            "maps": "number of maps in it",
            "central": "row of the sample whose map is nearest to the prototype",
            "prototype": "mean of its L1-normalised maps, row by row of the patch grid",
        },
    ),
    AuditTable(
        "members",
        "members.parquet",
        audit.CLUSTER_MEMBERS,
        "a map that was clustered",
        {
            "cluster": "index of the cluster that it is in, within its class",
            "embedding": "entries of the first eigenvectors of the graph of its class",
        },
    ),
    AuditTable(
        "lineage",
        "lineage.parquet",
        audit.LINEAGE,
        "a shard of a product",
        {
            "product": "maps, or the folder of what was made of them",
            "maker": "hash of the run, policy or protocol that made it",
            "parent": "hash of what it was made of: of maps, of the keys and encoded bytes of all pictures of the shard",
            "hash": "of the objects that were made",
            "commit": "SHA-256 of the record that says so",
            "objects": "number of objects",
            "bytes": "length of all of them together",
        },
    ),
    AuditTable(
        "completeness",
        "completeness.parquet",
        audit.COMPLETENESS,
        "what became of samples or maps of a shard",
        {
            "what": "samples, or maps of a method",
            "method": "name of the method; null of samples",
            "status": "ok, or what is wrong",
            "reason": "kind of error; null of what is ok",
            "count": "how many ended so",
            "expected": "to which the counts of the shard (and the method) add up",
        },
    ),
    AuditTable(
        "reproduced",
        "reproduced.parquet",
        audit.REPRODUCIBILITY,
        "maps of a method that were computed again; or, with a null method, the network's predictions",
        {
            "kind": "same_batch: as they were computed; other_batch: with another batch size",
            "batch_size": "pictures that were computed together",
            "method": "name of the method; null in the row of the network itself",
            "target": "which class is explained; null in the row of the network itself",
            "drawn": "number of samples that were drawn",
            "rows": "number of them that could be computed again",
            "equal": "share of the maps that are equal bit by bit; of the network, of samples with the same prediction",
            "max": "largest difference of a value in [0, 1]; of the network, of its probability",
            "mean": "mean difference of values in [0, 1]; of the network, of its probability",
            "min_spearman": "lowest rank correlation of a map and its repetition; null where none is defined",
            "mean_spearman": "mean rank correlation of a map and its repetition",
        },
    ),
    AuditTable(
        "faithfulness",
        "faithfulness/summary.parquet",
        metrics.METRIC_SUMMARY,
        "means over a sample of pictures, by method, target and measure of faithfulness",
        _SUMMARY,
    ),
    AuditTable(
        "faithfulness_values",
        "faithfulness/values/*.parquet",
        metrics.METRIC_VALUES,
        "a picture, method, target and measure of faithfulness",
        _FIGURES,
    ),
    AuditTable(
        "sanity",
        "sanity/summary.parquet",
        metrics.METRIC_SUMMARY,
        "means over a sample of pictures, by method, target and sanity check",
        _SUMMARY,
    ),
    AuditTable(
        "sanity_values",
        "sanity/values/*.parquet",
        metrics.METRIC_VALUES,
        "a picture, method, target and sanity check",
        _FIGURES,
    ),
)
"""All that may be in a folder; those of measures that were not asked for are not."""
