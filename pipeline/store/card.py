"""How an atlas shows itself in a notebook."""

from html import escape
from typing import TYPE_CHECKING

from schemas.text import escape_control

if TYPE_CHECKING:
    from pipeline.store.atlas import Atlas


def html(atlas: "Atlas") -> str:
    """A small table of what an atlas is of. Nothing is read but one listing; texts of others are escaped."""
    run = atlas.run
    height, width = run.model.grid
    about = {
        "atlas": atlas.objects.url,
        "model": f"{run.model.name}, {height}×{width} patches",
        "methods": ", ".join(run.methods),
        "targets": ", ".join(run.spec.targets),
        "shards": f"{len(atlas.shard_names):,} of {len(run.shards):,} done",
        "images": f"{run.samples:,} planned",
    }
    rows = "".join(f"<tr><th>{name}</th><td>{escape(escape_control(text))}</td></tr>" for name, text in about.items())
    return f"<table>{rows}</table>"
