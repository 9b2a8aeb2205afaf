"""Dataset card of an audit: Markdown with YAML front matter, as Hugging Face reads it."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.audit.publication.published_tables import PublishedTable, find_tables, format_type
from pipeline.store import MapReader, ObjectStore
from pipeline.store.parquet import from_parquet
from pipeline.utils.markdown import escape_markdown
from pipeline.utils.redaction import public_model_name
from schemas.audit_records import DEFAULT_PUBLICATION, AuditSpec, PublicationRecord
from schemas.audit_tables import OTHER_BATCH, SAME_BATCH
from schemas.layout import ABOUT
from schemas.text import escape_control

CARD_NAME = "README.md"
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
"""Size categories of Hugging Face, by an exclusive upper bound of the number of images."""
_MAX_SIZE = "10M<n<100M"
_TAGS = ("explainable-ai", "attribution-maps", "saliency", "vision-transformer", "audit")
_BATCHES = {SAME_BATCH: "batch size of the run", OTHER_BATCH: "another batch size"}

PURPOSE = (
    "Where a vision transformer looks: attribution maps of its predictions by several methods, with statistics of each "
    "map, agreement of the methods, a search for classes that may depend on a shortcut, and hashes that lead back to "
    "the images. It can be verified from these files alone."
)
USES = (
    "Comparing attribution methods on one network, by image and by class.",
    "Finding classes whose maps indicate a shortcut, to inspect them.",
    "Finding single images to inspect: wrong predictions, disagreement of methods, degenerate maps.",
    "Recomputing published numbers from their sources.",
)
MISUSES = (
    "Proof that a network is fair, safe or right. A plausible map is no evidence of that.",
    "Statements about other networks, other weights or other data.",
    "Statements about people in the images.",
    "Training data that is presented as the work of human annotators.",
)
LIMITS = (
    "Maps have the resolution of the patch grid: details smaller than a patch cannot be distinguished.",
    "Each map is scaled to [0, 1] by itself, so values of two maps cannot be compared; the atlas has the bounds.",
    "Methods measure different things in one network. Where they disagree, nothing here tells which of them is right.",
    "Sanity checks rank nothing: a method that passes them need not be faithful, and controls may pass some.",
    "Faithfulness by perturbation shows the network images unlike any that it was trained on.",
    "Localization scores whose threshold was chosen on the same images are an upper bound, not what a user gets.",
    "The search for shortcuts detects only cues with a fixed place that not all classes share, in enough images; the "
    "absence of an alarm does not show that there is no shortcut.",
    "Maps were computed on one kind of machine; another one may differ in the last bits, as far as was measured.",
)
BIASES = (
    "Center bias: photographers put objects in the middle, and a map that always shows the middle scores well. Compare "
    "with the control named center, where there is one.",
    "Size bias: an even map has as much mass on the object as the object has area. Compare with the control named "
    "uniform, where there is one.",
    "Images, labels and label errors are those of the dataset that the network was run on, with all its biases.",
    "Images that could not be decoded, and samples whose label could not be used, are missing; they are counted.",
)
PROTOCOL = (
    "There are no human annotations. A network was run over all images, each attribution method computed a map of the "
    "labeled or predicted class, and all numbers were computed from these maps."
)


def render_dataset_card(
    atlas: MapReader, out: str, publication: PublicationRecord = DEFAULT_PUBLICATION, thumbnails: bool = False
) -> bytes:
    """Render the card of an audit whose tables exist.

    Args:
        atlas: the atlas.
        out: folder or URL of the audit.
        publication: facts that only the publisher knows.
        thumbnails: the report shows thumbnails of the images, which have a licence of their own.

    Returns:
        Markdown in UTF-8. Text from data or users is escaped for YAML in the front matter, and for Markdown below.

    Raises:
        UsageError: there is no atlas, or the folder holds no audit.
    """
    objects = ObjectStore(out)
    about = AuditSpec.read(objects.get(ABOUT), ABOUT)
    tables = list(find_tables(objects))
    counts = _count_statuses(objects, tables)
    name = publication.name or default_dataset_name(atlas)
    body = _TEMPLATE.render(
        name=name,
        purpose=PURPOSE,
        protocol=PROTOCOL,
        uses=USES,
        misuses=MISUSES,
        limits=LIMITS + BIASES,
        run=atlas.run,
        model=public_model_name(atlas.run.model.name),
        about=about,
        methods=_describe_methods(atlas, about),
        counts=counts,
        tables=tables,
        reproducibility=_summarize_reproducibility(objects, tables),
        batches=_BATCHES,
        publication=publication,
        thumbnails=thumbnails,
    )
    return f"---\n{_front_matter(name, publication, counts['samples']['ok'], tables)}---\n\n{body}".encode()


def default_dataset_name(atlas: MapReader) -> str:
    """Return the name of a dataset without a given name: that of the folder of the atlas, or of several."""
    return " and ".join(each.url.rstrip("/").rpartition("/")[2] or "atlas" for each in atlas.atlases)


def _code(name: str) -> Markup:
    """Return a name as code, in which nothing is escaped, without characters that would end it or a cell."""
    return Markup(f"`{re.sub(r'[`|]', '', escape_control(name))}`")


# All values that the template inserts are escaped here; its own text is Markdown.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    finalize=escape_markdown,
    autoescape=False,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {"code": _code, "kind": format_type}
_TEMPLATE = _ENVIRONMENT.get_template("card.md.j2")


def _front_matter(name: str, publication: PublicationRecord, images: int, tables: list[PublishedTable]) -> str:
    """Return YAML for the filters of the Hub, and for ``datasets.load_dataset`` to find the tables."""
    licence = {"license": publication.license.lower()}
    if "://" in publication.license:  # the Hub links licences that it has no name for
        licence = {"license": "other", "license_link": publication.license}
    front_matter = {
        "pretty_name": name,
        **licence,
        "task_categories": ["image-classification"],
        "tags": list(_TAGS),
        "size_categories": [next((size for limit, size in _SIZES.items() if images < limit), _MAX_SIZE)],
        "configs": [
            {"config_name": published.table.name, "data_files": [{"split": "train", "path": published.table.files}]}
            | ({"default": True} if place == 0 else {})
            for place, published in enumerate(tables)
        ],
    }
    return yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True, width=120)


def _describe_methods(atlas: MapReader, about: AuditSpec) -> list[dict[str, str]]:
    """Return name, kind, summary and paper of each audited method."""
    from pipeline.explain.registry import methods as registry  # torch, which most of an audit does not need

    bases = dict(zip(atlas.run.methods, (text.partition(":")[0] for text in atlas.run.spec.methods), strict=True))
    rows = []
    for name in about.methods:
        method = registry.get(bases[name])
        row = {"name": name, "kind": "", "summary": "", "paper": ""}  # unknown if it is of a later version
        if method is not None:
            summary = (method.__doc__ or "").splitlines()[0].rstrip(".")
            row |= {"kind": method.kind, "summary": summary, "paper": method.paper}
        rows.append(row)
    return rows


def _read_rows(objects: ObjectStore, tables: list[PublishedTable], name: str) -> list[dict[str, Any]]:
    """Return the rows of a table; none if the audit does not have it."""
    names = [path for published in tables if published.table.name == name for path in published.names]
    return [row for path in names for row in from_parquet(objects.get(path)).to_pylist()]


def _count_statuses(objects: ObjectStore, tables: list[PublishedTable]) -> dict[str, Any]:
    """Count shards, and samples and maps by status, in the table of completeness."""
    counts: dict[str, Counter[str]] = {"samples": Counter(), "maps": Counter()}
    reasons: Counter[tuple[str, str]] = Counter()
    shards = set()
    for row in _read_rows(objects, tables, "completeness"):
        shards.add(row["shard"])
        counts[row["kind"]][row["status"]] += row["count"]
        if row["kind"] == "samples" and row["reason"] is not None:
            reasons[row["status"], row["reason"]] += row["count"]
    return counts | {"shards": len(shards), "reasons": reasons.most_common()}


def _summarize_reproducibility(objects: ObjectStore, tables: list[PublishedTable]) -> list[dict[str, Any]]:
    """Return the worst values over the target kinds, by kind and method."""
    groups: dict[tuple[str, str | None], list[dict[str, Any]]] = defaultdict(list)
    for row in _read_rows(objects, tables, "reproducibility"):
        groups[row["kind"], row["method"]].append(row)
    return [
        {
            "kind": kind,
            "method": method,
            "rows": rows[0]["recomputed"],
            "sampled": rows[0]["sampled"],
            "batch_size": rows[0]["batch_size"],
            "equal": _worst(min, rows, "equal_share"),
            "max": _worst(max, rows, "max_difference"),
            "spearman": _worst(min, rows, "min_spearman"),
        }
        for (kind, method), rows in groups.items()
    ]


def _worst(which: Any, rows: list[dict[str, Any]], column: str) -> float | None:
    return which((row[column] for row in rows if row[column] is not None), default=None)
