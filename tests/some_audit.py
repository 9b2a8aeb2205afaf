"""An audit with all that makes outsiders trust it, and a publisher whose words nothing may stumble over."""

from pipeline.audit.card import CARD, card
from pipeline.audit.completeness import completeness
from pipeline.audit.croissant import CROISSANT, croissant
from pipeline.audit.environment import environment
from pipeline.audit.manifest import publish
from pipeline.audit.reproduce import reproduced
from pipeline.faith import SANITY, examine
from pipeline.store import Objects
from pipeline.store.tables import packed
from schemas.audit import PublicationRecord

PUBLICATION = PublicationRecord(
    name="Demo: <img src=x> *audit* | 1",
    license="CC-BY-4.0",
    url="https://example.org/audit",
    creator='Anna\n- list: [of] & <b>"nothing"</b> \'|`x`',
)
"""With all that Markdown, YAML, JSON and HTML could stumble over."""


def trust(url: str, out: str) -> None:
    """Put into the folder of an audit what belongs there besides its tables, a few figures of sanity too."""
    objects = Objects(out)
    sane = examine(url, {"random_logit": SANITY["random_logit"]}, ["legrad", "attention"], images=4)
    objects.put("sanity/figures/all.parquet", packed(sane.figures))
    objects.put("sanity/summary.parquet", packed(sane.summary))
    objects.put("reproduced.parquet", packed(reproduced(url, rows=32)))
    objects.put("completeness.parquet", packed(completeness(url)))
    objects.put("environment.json", environment(url).to_bytes())
    objects.put("report/index.html", b"<!doctype html>")
    objects.put("report/data/shard-0.js", b"atlas.shard(0)")
    objects.put(CARD, card(url, out, PUBLICATION))
    objects.put(CROISSANT, croissant(url, out, PUBLICATION))
    publish(out)
