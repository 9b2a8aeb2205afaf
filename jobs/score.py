"""``vitatlas score``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs import output
from jobs.completion import methods_of_atlas
from jobs.params import (
    Number,
    address_option,
    classes_option,
    key_separator_option,
    names_option,
    partial_option,
    path_option,
    read_class_names,
    split_names,
    target_option,
    truth_options,
)
from jobs.score_output import show_class_scores, show_scores
from pipeline.utils.terminal import echo
from schemas.errors import UsageError
from schemas.run import KeySeparator, MaskValues, TruthOrientation

if TYPE_CHECKING:
    from pipeline.score.sources import ScoreSource
    from pipeline.store import Atlas, MapReader
    from pipeline.truth import TruthSet


@click.command("score")
@click.argument("sources", metavar="[NAME=]SOURCE…", nargs=-1, required=True)
@path_option(
    "--truth",
    required=True,
    metavar="FILE|DIR",
    text="Ground truth: boxes or masks (COCO, wsolevaluation, CSV, XML, PNG); points (OpenImages) or masks (VOC) of "
    "classes.",
)
@path_option("--tune", metavar="FILE|DIR", text="Truth of the tuning split for thresholds. Default: 1 % of the images.")
@truth_options
@click.option(
    "--tune-atlas",
    "tune_sources",
    metavar="[NAME=]SOURCE",
    multiple=True,
    help="With --tune: what has predictions of that split, one for each SOURCE, by its name. Default: SOURCE.",
)
@path_option(
    "--sizes",
    metavar="FILE|maps",
    text="Sizes of the images, where the truth has none: a file such as image_sizes.txt, or those of the maps. "
    "Default: those of the atlases among the sources.",
)
@key_separator_option
@target_option
@names_option("--methods", names=methods_of_atlas, text="Methods of atlases to score. Default: all.")
@click.option(
    "--grid-step",
    type=Number(min=0, min_open=True),
    metavar="STEP",
    help="Step of the thresholds of boxes and of PxAP, such as the 0.01 of wsolevaluation. Default: 0.001, all levels.",
)
@click.option("--subset", is_flag=True, help="Score only the images and classes that truth and all sources have.")
@click.option("--differences", is_flag=True, help="Print the differences of all methods, not only of up to three.")
@classes_option
@path_option("--out", metavar="DIR", text="Output folder. Default, of an atlas alone: ATLAS/scores/TRUTH-TARGET.")
@partial_option
@address_option
@output.json_option
def score_command(
    sources: tuple[str, ...],
    truth: str,
    tune: str | None,
    truth_orientation: TruthOrientation | None,
    mask_values: MaskValues | None,
    tune_sources: tuple[str, ...],
    sizes: str | None,
    key_separator: KeySeparator | None,
    target: str,
    methods: str | None,
    grid_step: float | None,
    subset: bool,
    differences: bool,
    classes_file: str | None,
    out: str | None,
    partial: bool,
    address: str | None,
    json_: bool,
) -> None:
    """Score localization against ground-truth boxes and masks.

    The protocol of Choe et al. (CVPR 2020): PxAP, MaxBoxAcc and MaxBoxAccV2 at the best threshold on these images;
    GT-known, Top-1, Top-5 and IoU at a threshold chosen on a separate tuning split; also ImageNet-Segmentation,
    pointing game and energy. Each number has its 95 % bootstrap interval.

    A SOURCE is an atlas, or predictions of another program: a folder or tar of .npy, .npz or gray .png files named by
    the keys of images (score maps of any size and range, or masks); results of COCO in .json (boxes, or masks as run
    lengths, with scores); a .csv of boxes (image_id,x0,y0,x1,y1,score). Several are scored on the same images, in one
    table, with the paired differences of their scores; atlases of one run over different shards are one SOURCE.

    Truth that has classes gives scores of open vocabulary instead: p-mIoU of the points of OpenImages V7, mIoU of the
    class masks of PASCAL VOC. All targets of a kind take part (--target label, predicted, top or class).

    Run the same command again to resume after an interruption.

    \b
    Examples:
      vitatlas score val.atlas --truth instances.json
      vitatlas score val.atlas --truth metadata/ILSVRC/test --tune metadata/ILSVRC/val --tune-atlas v2.atlas
      vitatlas score deit.atlas TS-CAM=score_maps/ PSOL=boxes.csv --truth metadata/CUB/test --out comparison
      vitatlas score voc.atlas --truth VOCdevkit/VOC2012 --subset
    """
    from pipeline.run.execution import ComputeOptions
    from pipeline.score import default_output_dir, open_source, score, score_classes
    from pipeline.score.score_classes import find_targets
    from pipeline.score.sources.map_files import MapFiles
    from pipeline.score.threshold_grid import ThresholdGrid
    from pipeline.store.label_accuracy import measure_label_accuracy
    from pipeline.truth import read_truth
    from pipeline.truth.wsolevaluation import read_sizes
    from pipeline.utils.source_name import split_source_name

    named, tuning_named = ([split_source_name(text) for text in texts] for texts in (sources, tune_sources))
    atlases = _open_atlases([path for _, path in (*named, *tuning_named)])
    separator = _find_key_separator(atlases, key_separator)
    opened, tuning_opened = (_join_parts(pairs, atlases, partial) for pairs in (named, tuning_named))
    readers = [source for _, source in opened if not isinstance(source, str)]
    truths = [read_truth(path, truth_orientation, mask_values, separator) for path in (truth, tune) if path]
    if sizes is not None and sizes != "maps":
        truths = [each.with_sizes(read_sizes(Path(sizes), separator)) for each in truths]
    truth_set, tune_truth = truths[0], truths[1] if tune else None
    for reader in readers:
        if len(opened) > 1:
            echo(f"{reader.url}:", err=json_)
        output.print_accuracy(measure_label_accuracy(reader), to_stderr=json_)
    options, chosen = ComputeOptions(address), split_names(methods)
    if not readers:
        for flag, is_given in (("--methods", bool(chosen)), ("--target", target != "label")):
            if is_given:
                raise UsageError(f"{flag}: selects maps of atlases, and no SOURCE is one; leave it out")
    if truth_set.classes:
        flags = {"--grid-step": grid_step, "--tune-atlas": tune_sources, "--sizes": sizes, "--differences": differences}
        _refuse_with_classes(truth, flags)
        if len(opened) > 1 or not readers:
            raise UsageError(f"{truth}: has classes, which only the maps of one atlas are scored by; name it alone")
        (reader,), class_names = readers, read_class_names(classes_file)
        folder = out or default_output_dir(output.only_url(reader), truth_set, find_targets(reader, target)[0])
        selection = truth_set, target, chosen, tune_truth, subset
        table = score_classes(reader, *selection, folder, class_names, options, output.print_note)
        output.print_json(table.to_pylist()) if json_ else show_class_scores(reader.url, folder, table.to_pylist())
        return
    if classes_file:
        raise UsageError(f"--classes: {truth} has no classes; leave it out")

    def open_all(pairs: "Sequence[tuple[str, str | MapReader]]", of: "TruthSet") -> "list[ScoreSource]":
        return [
            open_source(source, of, name, target, chosen, separator, sizes == "maps", output.print_note)
            for name, source in pairs
        ]

    scored, tuned = open_all(opened, truth_set), open_all(tuning_opened, tune_truth or truth_set)
    if sizes == "maps" and not any(isinstance(source, MapFiles) for source in (*scored, *tuned)):
        raise UsageError("--sizes maps: no SOURCE has map files; leave it out, or give --sizes FILE")
    if out is None and len(opened) == len(readers) == 1:
        out = default_output_dir(output.only_url(readers[0]), truth_set, str(scored[0].target))
    table = score(
        scored,
        truth_set,
        tuning_truth=tune_truth,
        tuning_sources=_pair(scored, tuned),
        subset=subset,
        out=out,
        options=options,
        log=output.print_note,
        grid=ThresholdGrid() if grid_step is None else ThresholdGrid(grid_step),
    )
    if json_:
        output.print_json(table.to_pylist())
        return
    show_scores([source.url for source in scored], str(out), table.to_pylist(), differences)


def _open_atlases(paths: Sequence[str]) -> "dict[str, Atlas]":
    """Return those of the sources that are atlases, by path."""
    from pipeline.score.sources import is_atlas
    from pipeline.store import Atlas

    return {path: Atlas.open(path) for path in paths if "://" in path or is_atlas(path)}


def _join_parts(
    named: Sequence[tuple[str, str]], atlases: "Mapping[str, Atlas]", partial: bool
) -> "list[tuple[str, str | MapReader]]":
    """Return names and sources, a path or an atlas each; several atlases of one run are one."""
    from pipeline.store.join import group_by_run

    joined = group_by_run([(name, atlases[path]) for name, path in named if path in atlases])
    for reader in joined.values():
        output.check_complete(reader, partial)
    files = [(name, path) for name, path in named if path not in atlases]
    first = {name: place for place, (name, _) in reversed([*enumerate(named)])}
    return sorted([*joined.items(), *files], key=lambda source: first[source[0]])


def _find_key_separator(atlases: "Mapping[str, Atlas]", given: KeySeparator | None) -> KeySeparator:
    """Return the dot that ends the keys of all sources: that of the atlases, or the given one."""
    found = {opened.run.spec.key_separator: path for path, opened in atlases.items()}
    if len(found) > 1:
        raise UsageError(
            f"{' and '.join(found.values())}: have other --key-separator; compare atlases with the same keys"
        )
    separator = next(iter(found), given or "first-dot")
    if given not in (None, separator):
        raise UsageError(f"--key-separator: the keys of {found[separator]} end at its {separator}; leave it out")
    return separator


def _refuse_with_classes(truth: str, flags: Mapping[str, Any]) -> None:
    reasons = {"--tune-atlas": "thresholds of classes are tuned on images of the same atlas"}
    for flag, value in flags.items():
        if value:
            reason = reasons.get(flag, f"scores of {truth}, which has classes, know none")
            raise UsageError(f"{flag}: {reason}; leave it out")


def _pair(scored: "Sequence[ScoreSource]", tuned: "Sequence[ScoreSource]") -> "dict[str, ScoreSource] | None":
    """Return the tuning sources by the name of the source that they belong to. One of one source needs no name."""
    if len(scored) == len(tuned) == 1:
        return {scored[0].name: tuned[0]}
    if len({source.name for source in tuned}) < len(tuned):
        raise UsageError("--tune-atlas: two have the same name; give each the name of its SOURCE, as NAME=PATH")
    return {source.name: source for source in tuned} or None
