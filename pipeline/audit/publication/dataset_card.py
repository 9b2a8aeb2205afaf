"""The card of an audit as a data set: Markdown with a head of YAML, as Hugging Face reads it."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.audit.publication import card_text
from pipeline.audit.publication.contents import PublishedTable, find_tables, format_type
from pipeline.audit.publication.environment import public_model_name
from pipeline.store import Atlas, ObjectStore
from pipeline.store.parquet import from_parquet
from schemas.audit_records import DEFAULT_PUBLICATION, AuditRecord, PublicationRecord
from schemas.audit_tables import OTHER_BATCH, SAME_BATCH
from schemas.layout import ABOUT
from schemas.text import escape_control

CARD_NAME = "README.md"
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
"""Size categories of Hugging Face, by what the number of pictures is below."""
_LARGEST = "10M<n<100M"
_TAGS = ("explainable-ai", "attribution-maps", "saliency", "vision-transformer", "audit")
_MARKS = re.compile(r"([\\`*_\[\]|~$#!{}])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_KINDS = {SAME_BATCH: "as they were computed", OTHER_BATCH: "with another batch size"}


def render_dataset_card(
    url: str, out: str, publication: PublicationRecord = DEFAULT_PUBLICATION, pictures: bool = False
) -> bytes:
    """The card of an audit, whose tables are in their folder already.

    Args:
        url: of the atlas.
        out: folder or URL of the audit.
        publication: what only the publisher knows.
        pictures: whether the report beside it shows thumbnails of the pictures, which have a licence of their own.

    Returns:
        Markdown in UTF-8. Texts that came from data or users are escaped, for YAML in the head and for Markdown below.

    Raises:
        UsageError: there is no atlas, or the folder holds no audit.
    """
    atlas, objects = Atlas.open(url), ObjectStore(out)
    about = AuditRecord.read(objects.get(ABOUT), ABOUT)
    tables = list(find_tables(objects))
    counts = _completeness(objects, tables)
    name = publication.name or default_dataset_name(atlas)
    body = _TEMPLATE.render(
        name=name,
        words=card_text,
        run=atlas.run,
        model=public_model_name(atlas.run.model.name),
        about=about,
        methods=_methods(atlas, about),
        counts=counts,
        tables=tables,
        reproduced=_reproduced(objects, tables),
        kinds=_KINDS,
        publication=publication,
        pictures=pictures,
    )
    return f"---\n{_head(name, publication, counts['samples']['ok'], tables)}---\n\n{body}".encode()


def default_dataset_name(atlas: Atlas) -> str:
    """Of a data set whose publisher has not said how it is called: that of the atlas' folder."""
    return atlas.objects.url.rstrip("/").rpartition("/")[2] or "atlas"


def escape_markdown(value: object) -> str:
    """A text as plain text of one line in Markdown, whatever it is; what is Markdown already as it is."""
    if isinstance(value, Markup):
        return value
    text = escape_control(" ".join(str(value).split()))
    return _MARKS.sub(r"\\\1", text.translate(_ENTITIES))


def _code(name: str) -> Markup:
    """A name as code, in which nothing is escaped; what would end it, or a cell, is left out."""
    return Markup(f"`{re.sub(r'[`|]', '', escape_control(name))}`")


# Everything that a template puts in is escaped at this one place; its own words are Markdown.
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


def _head(name: str, publication: PublicationRecord, images: int, tables: list[PublishedTable]) -> str:
    """YAML that the Hub makes filters of, and from which ``datasets.load_dataset`` learns which tables there are."""
    licence = {"license": publication.license.lower()}
    if "://" in publication.license:  # the Hub has names for those that it knows, and a link for others
        licence = {"license": "other", "license_link": publication.license}
    head = {
        "pretty_name": name,
        **licence,
        "task_categories": ["image-classification"],
        "tags": list(_TAGS),
        "size_categories": [next((size for limit, size in _SIZES.items() if images < limit), _LARGEST)],
        "configs": [
            {"config_name": each.table.name, "data_files": [{"split": "train", "path": each.table.files}]}
            | ({"default": True} if place == 0 else {})
            for place, each in enumerate(tables)
        ],
    }
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120)


def _methods(atlas: Atlas, about: AuditRecord) -> list[dict[str, str]]:
    """Name, kind, summary and paper of each method that was looked at."""
    from pipeline.explain.registry import methods as registry  # torch, which few who audit need

    bases = dict(zip(atlas.run.methods, (text.partition(":")[0] for text in atlas.run.spec.methods), strict=True))
    rows = []
    for name in about.methods:
        method = registry.get(bases[name])
        row = {"name": name, "kind": "", "summary": "", "paper": ""}  # of a later version, perhaps
        if method is not None:
            summary = (method.__doc__ or "").splitlines()[0].rstrip(".")
            row |= {"kind": method.kind, "summary": summary, "paper": method.paper}
        rows.append(row)
    return rows


def _table(objects: ObjectStore, tables: list[PublishedTable], name: str) -> pa.Table | None:
    return next((from_parquet(objects.get(each.names[0])) for each in tables if each.table.name == name), None)


def _completeness(objects: ObjectStore, tables: list[PublishedTable]) -> dict[str, Any]:
    """Counts of shards, and of samples and maps by status, from the table."""
    table = _table(objects, tables, "completeness")
    found: dict[str, Counter[str]] = {"samples": Counter(), "maps": Counter()}
    reasons: Counter[tuple[str, str]] = Counter()
    shards = set()
    for row in table.to_pylist() if table is not None else ():
        shards.add(row["shard"])
        found[row["kind"]][row["status"]] += row["count"]
        if row["kind"] == "samples" and row["reason"] is not None:
            reasons[row["status"], row["reason"]] += row["count"]
    return found | {"shards": len(shards), "reasons": reasons.most_common()}


def _reproduced(objects: ObjectStore, tables: list[PublishedTable]) -> list[dict[str, Any]]:
    """Of each kind and method, the worst over the targets."""
    table = _table(objects, tables, "reproducibility")
    groups: dict[tuple[str, str | None], list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist() if table is not None else ():
        groups[row["kind"], row["method"]].append(row)
    return [
        {
            "kind": kind,
            "method": method,
            "rows": rows[0]["recomputed"],
            "drawn": rows[0]["sampled"],
            "batch_size": rows[0]["batch_size"],
            "equal": _worst(min, rows, "equal_share"),
            "max": _worst(max, rows, "max_difference"),
            "spearman": _worst(min, rows, "min_spearman"),
        }
        for (kind, method), rows in groups.items()
    ]


def _worst(which: Any, rows: list[dict[str, Any]], column: str) -> float | None:
    return which((row[column] for row in rows if row[column] is not None), default=None)
