"""``vitatlas audit``."""

import re
from typing import Literal

import click
from click.core import ParameterSource

from jobs import output
from jobs.completion import methods_of_atlas
from jobs.params import (
    PATH_OR_URL,
    address_option,
    allow_pipe_option,
    choice_option,
    classes_option,
    count_option,
    names_option,
    partial_option,
    path_option,
    read_class_names,
    split_names,
    target_option,
    truth_options,
)
from pipeline.audit.exports import EXPORTERS
from pipeline.utils.terminal import echo
from schemas.audit_samples import FAITHFULNESS_IMAGES, RECOMPUTED_IMAGES, SANITY_IMAGES
from schemas.errors import RunFailedError, UsageError
from schemas.run import MaskValues, TruthOrientation

_MAX_LISTED = 10
"""Classes that are printed."""


@click.command("audit")
@click.argument("atlases", metavar="[NAME=]ATLAS…", type=PATH_OR_URL, nargs=-1)
@path_option("--out", metavar="DIR", text="Output folder. Default: ATLAS/audit/TARGET.")
@path_option("--check", "folder", metavar="DIR", text="Verify a published audit, from its files alone.")
@click.option("--root", metavar="sha256:…", help="With --check: the manifest root that the publisher stated elsewhere.")
@target_option
@names_option("--methods", names=methods_of_atlas, text="Methods to audit. Default: all of the atlas.")
@path_option("--truth", metavar="FILE|DIR", text="Boxes or masks, to measure the mass of each map on the object.")
@truth_options
@classes_option
@count_option("--images", default=FAITHFULNESS_IMAGES, minimum=0, text="Images sampled for the faithfulness metrics.")
@count_option("--sanity", default=SANITY_IMAGES, minimum=0, text="Images sampled for the sanity metrics.")
@count_option(
    "--recompute",
    default=RECOMPUTED_IMAGES,
    minimum=0,
    text="Images whose maps are recomputed for the reproducibility table.",
)
@click.option(
    "--maps-only",
    is_flag=True,
    help="Use neither network nor shards: no faithfulness, sanity or reproducibility metrics, no images in the report.",
)
@click.option("--no-images", is_flag=True, help="Leave all pixels of the dataset out of the report and the exports.")
@names_option(
    "--export", "exports", names=lambda context: EXPORTERS, text=f"Export for other programs: {', '.join(EXPORTERS)}."
)
@path_option(
    "--lineage-dir",
    "lineage_dirs",
    multiple=True,
    metavar="DIR",
    text="Labels or scores in another folder, to include in the lineage; may be repeated.",
)
@path_option(
    "--publication",
    "publication_file",
    metavar="FILE",
    text="YAML for the dataset card: name, license, url, creator, version.",
)
@choice_option("--device", ["auto", "cpu", "cuda"], "Device of the network.", "auto")
@partial_option
@address_option
@allow_pipe_option
@output.json_option
@click.pass_context
def audit_command(
    context: click.Context,
    atlases: tuple[str, ...],
    out: str | None,
    folder: str | None,
    root: str | None,
    target: str,
    methods: str | None,
    truth: str | None,
    truth_orientation: TruthOrientation | None,
    mask_values: MaskValues | None,
    classes_file: str | None,
    images: int,
    sanity: int,
    recompute: int,
    maps_only: bool,
    no_images: bool,
    exports: str | None,
    lineage_dirs: tuple[str, ...],
    publication_file: str | None,
    device: Literal["auto", "cpu", "cuda"],
    partial: bool,
    address: str | None,
    allow_pipe: bool,
    json_: bool,
) -> None:
    """Create an audit: metric tables, an HTML report and a checksum manifest.

    It shows where the network looks, where methods disagree, which classes may depend on a shortcut, how faithful the
    maps are, and whether they can be reproduced. Open report/index.html in a browser; no server is needed.

    Several atlases of one run over different shards are audited as one.

    Run the same command again to resume after an interruption.

    \b
    Examples:
      vitatlas audit val.atlas --truth metadata/ILSVRC/test --classes names.txt
      vitatlas audit val.atlas --maps-only --export virelay
      vitatlas audit --check val.atlas/audit/label --root sha256:9f86d081884c7d659a2feaa0c55ad015…
    """
    if bool(atlases) == (folder is not None):
        raise UsageError("name an atlas to audit, or the folder of an audit to verify with --check")
    options = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if folder is not None:
        if extra := options - {"folder", "root", "json_"}:
            raise UsageError(f"--check takes only --root and --json; remove {', '.join(sorted(extra))}")
        _verify(folder, root, json_)
        return
    if maps_only and (extra := options & {"images", "sanity", "recompute"}):
        raise UsageError(f"--maps-only does not use the network; remove it, or {', '.join(sorted(extra))}")
    if root is not None:
        raise UsageError("--root needs the folder of an audit to verify: --check DIR")
    from pipeline.audit.audit_atlas import AuditOptions, audit_atlas, default_audit_dir
    from pipeline.run.execution import ComputeOptions
    from pipeline.store import Atlas
    from pipeline.store.label_accuracy import measure_label_accuracy
    from pipeline.truth import read_truth
    from schemas.audit_records import DEFAULT_PUBLICATION, PublicationRecord

    audit_options = AuditOptions(images, sanity, recompute, not no_images, split_names(exports))
    if maps_only:
        audit_options = AuditOptions(0, 0, 0, False, split_names(exports))
    opened = Atlas.open(atlases, subset=True)  # those of several networks are refused, whatever images they have
    output.refuse_networks(opened, "an audit is of one network")
    out = out or default_audit_dir(opened, target)
    output.check_complete(opened, partial)
    names = opened.class_names(read_class_names(classes_file))
    result = audit_atlas(
        opened,
        out,
        target,
        split_names(methods),
        read_truth(truth, truth_orientation, mask_values, opened.run.spec.key_separator) if truth else None,
        names,
        audit_options,
        lineage_dirs,
        PublicationRecord.from_yaml(publication_file) if publication_file else DEFAULT_PUBLICATION,
        ComputeOptions(address, allow_pipe, device),
        lambda line: echo(line, err=True),
    )
    output.print_accuracy(measure_label_accuracy(opened), to_stderr=json_)
    rows = result.suspicious.to_pylist()
    if json_:
        output.print_json({"out": out, "root": result.manifest.root, "suspicious": rows})
        return
    alarming = [row for row in rows if row["alarms"]]
    echo(f"{len(alarming)} of {len(rows)} classes may depend on a shortcut")
    if alarming:
        output.print_table(
            "one location is an outlier in their maps more often than in those of other classes",
            ["class", "alarms", "methods", "strongest in", "row (0 = top)", "column (0 = left)", "excess (points)"],
            [
                [
                    names[row["class"]] if names else str(row["class"]),
                    *(row[name] for name in ("alarms", "methods", "method", "y", "x")),
                    round(100 * row["excess"]),
                ]
                for row in alarming[:_MAX_LISTED]
            ],
        )
    for name in audit_options.exports:
        echo(f"{name:<8} {out}/{name}")
    echo(f"report   {out}/report/index.html")
    echo(f"root     {result.manifest.root}   (publish it elsewhere: with it others can verify every byte)")
    echo(f"check    vitatlas audit --check {out} --root {result.manifest.root}")


def _verify(folder: str, root: str | None, json_: bool) -> None:
    if root is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", root):
        raise UsageError(f"--root {root}: is not a root; a root is sha256: and 64 hexadecimal digits")
    from pipeline.audit.publication.manifest import read_root
    from pipeline.audit.publication.verify_audit import verify_audit

    faults = list(verify_audit(folder, root))
    if json_:
        output.print_json({"folder": folder, "faults": faults})
    else:
        for fault in faults:
            echo(f"fault    {fault}")
    if faults:
        raise RunFailedError(f"{folder}: {len(faults)} faults; the folder differs from what was published")
    if not json_:
        echo(f"{folder}: every object equals its manifest entry, and the tables are consistent")
        if root is None:
            echo(f"root     {read_root(folder)}   (compare it with the root that the publisher stated)")
