"""``vitatlas audit``."""

import re
from typing import Literal

import click
from click.core import ParameterSource

from jobs import output
from jobs.completion import among, of_atlas
from jobs.names import class_names, listed
from jobs.params import FILE, FOLDER, PLACE
from schemas.errors import RunFailedError, UsageError
from schemas.text import escape_control

EXPORTS = ("virelay", "quantus")
"""As pipeline.audit has them."""
_SHOWN = 10
"""Classes that are listed."""


@click.command("audit")
@click.argument("atlas", required=False, type=PLACE)
@click.option("--out", type=FOLDER, metavar="DIR", help="Default: ATLAS/audit/TARGET.")
@click.option("--check", "folder", type=FOLDER, metavar="DIR", help="Verify a published audit, from its files alone.")
@click.option("--root", metavar="sha256:…", help="With --check: the root that its publisher told.")
@click.option(
    "--target",
    type=click.Choice(["label", "predicted"]),
    default="label",
    show_default=True,
    help="Whose maps.",
)
@click.option("--methods", default="", shell_complete=among(of_atlas), metavar="A,B", help="Default: all of the atlas.")
@click.option("--truth", type=PLACE, metavar="FILE|DIR", help="Boxes or masks: how much of a map lies on the object.")
@click.option("--classes", "classes_file", type=FILE, metavar="FILE", help="Names, a line each. Default: numbers.")
@click.option(
    "--images", type=click.IntRange(0), default=1000, show_default=True, metavar="N", help="Drawn for faithfulness."
)
@click.option(
    "--sanity", type=click.IntRange(0), default=100, show_default=True, metavar="N", help="Drawn for sanity checks."
)
@click.option(
    "--recompute", type=click.IntRange(0), default=256, show_default=True, metavar="N", help="Computed again."
)
@click.option("--maps-only", is_flag=True, help="Ask neither network nor shards: none of these three, no pictures.")
@click.option("--no-pictures", is_flag=True, help="No thumbnails in the report: maps alone may be given away.")
@click.option(
    "--export",
    "exports",
    default="",
    shell_complete=among(lambda context: EXPORTS),
    metavar="A,B",
    help=f"For other tools: {', '.join(EXPORTS)}.",
)
@click.option(
    "--made-of",
    "further",
    multiple=True,
    type=FOLDER,
    metavar="DIR",
    help="Labels or scores elsewhere, for the lineage.",
)
@click.option(
    "--publication",
    "publication_file",
    type=FILE,
    metavar="FILE",
    help="YAML for the card: name, license, url, creator, version.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--address", metavar="local|auto|HOST:PORT", help="Of a Ray cluster. Default: none for up to 64 shards.")
@click.option("--allow-pipe", is_flag=True, help="Run the pipe: commands of the atlas to read its pictures.")
@output.json_option
@click.pass_context
def command(
    context: click.Context,
    atlas: str | None,
    out: str | None,
    folder: str | None,
    root: str | None,
    target: Literal["label", "predicted"],
    methods: str,
    truth: str | None,
    classes_file: str | None,
    images: int,
    sanity: int,
    recompute: int,
    maps_only: bool,
    no_pictures: bool,
    exports: str,
    further: tuple[str, ...],
    publication_file: str | None,
    device: Literal["auto", "cpu", "cuda"],
    address: str | None,
    allow_pipe: bool,
    json_: bool,
) -> None:
    """Make an audit of an atlas: tables, a report to look at, and what it takes to check both.

    Where the network looks, where methods disagree, which classes may be decided by a shortcut, how faithful the
    maps are, and whether all of it can be made again. Open report/index.html: it needs no server.

    Stopped at any moment, the same command goes on from the last finished shard.

    \b
    Examples:
      vitatlas audit val.atlas --truth metadata/ILSVRC/test --classes names.txt
      vitatlas audit val.atlas --maps-only --export virelay
      vitatlas audit --check val.atlas/audit/label --root sha256:9f86d081884c7d659a2feaa0c55ad015…
    """
    if (atlas is None) == (folder is None):
        raise UsageError("name either an atlas to audit, or with --check the folder of an audit that is to be verified")
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if folder is not None:
        if beside := given - {"folder", "root", "json_"}:
            raise UsageError(f"--check stands alone, or with --root and --json; leave out {', '.join(sorted(beside))}")
        _check(folder, root, json_)
        return
    if maps_only and (beside := given & {"images", "sanity", "recompute"}):
        raise UsageError(f"--maps-only asks nothing of the network; leave out {', '.join(sorted(beside))}, or itself")
    if root is not None:
        raise UsageError("--root is what an audit is checked by; say --check DIR")
    from pipeline.audit.audit_atlas import AuditOptions, audit_atlas
    from schemas.audit_records import DEFAULT_PUBLICATION, PublicationRecord
    from schemas.layout import AUDIT

    assert atlas is not None
    extent = AuditOptions(images, sanity, recompute, not no_pictures, listed(exports))
    if maps_only:
        extent = AuditOptions(0, 0, 0, False, listed(exports))
    out = out or f"{atlas.rstrip('/')}/{AUDIT}/{target}"
    output.note_partial(atlas)
    names = class_names(classes_file)
    made = audit_atlas(
        atlas,
        out,
        target,
        listed(methods),
        truth,
        names,
        extent,
        further,
        PublicationRecord.from_yaml(publication_file) if publication_file else DEFAULT_PUBLICATION,
        device,
        address,
        allow_pipe,
        lambda line: click.echo(escape_control(line), err=True),
    )
    rows = made.suspicious.to_pylist()
    if json_:
        output.as_json({"out": out, "root": made.manifest.root, "suspicious": rows})
        return
    alarming = [row for row in rows if row["alarms"]]
    click.echo(f"{len(alarming)} of {len(rows)} classes look decided by a shortcut")
    if alarming:
        output.table(
            "one place stands out of their maps more often than of those of others, by so many points at least",
            [
                "class",
                "alarms",
                "of methods",
                "clearest by",
                "row (0 = top)",
                "column (0 = left)",
                "points more",
            ],
            [
                [
                    names[row["class"]] if names else str(row["class"]),
                    *(row[name] for name in ("alarms", "methods", "method", "y", "x")),
                    round(100 * row["locked"]),
                ]
                for row in alarming[:_SHOWN]
            ],
        )
    for name in extent.exports:
        click.echo(f"{name:<8} {out}/{name}")
    click.echo(f"report   {out}/report/index.html")
    click.echo(f"root     {made.manifest.root}   (tell it elsewhere: by it others can check every byte)")
    click.echo(f"check    vitatlas audit --check {out} --root {made.manifest.root}")


def _check(folder: str, root: str | None, json_: bool) -> None:
    if root is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", root):
        raise UsageError(f"--root {root}: is no root; one is sha256: and 64 digits from 0 to f")
    from pipeline.audit.publication.manifest import read_root
    from pipeline.audit.publication.verify_audit import verify_audit

    faults = list(verify_audit(folder, root))
    if json_:
        output.as_json({"folder": folder, "faults": faults})
    else:
        for fault in faults:
            click.echo(escape_control(f"fault    {fault}"))
    if faults:
        raise RunFailedError(f"{folder}: faults: {len(faults)}; it is not, or not whole, what was published")
    if not json_:
        same = "every object is as its manifest says, and the tables say what their parts say"
        click.echo(f"{folder}: {same}")
        if root is None:
            click.echo(f"root     {read_root(folder)}   (is it the one that its publisher told?)")
