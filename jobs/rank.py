"""``vitatlas rank``."""

from typing import TYPE_CHECKING, Literal

import click

from jobs import output
from jobs.completion import methods_of_atlas
from jobs.params import (
    PATH_OR_URL,
    address_option,
    allow_pipe_option,
    choice_option,
    count_option,
    names_option,
    partial_option,
    path_option,
    split_names,
    target_option,
    truth_options,
)
from pipeline.utils.interval_text import format_interval, format_number
from pipeline.utils.terminal import echo
from schemas.run import MaskValues, TruthOrientation

if TYPE_CHECKING:
    from schemas.rank import LocalizationScore, RankRecord, SignalScore


@click.command("rank")
@click.argument("atlas", type=PATH_OR_URL)
@path_option("--out", metavar="DIR", text="Output folder. Default: ATLAS/rank/TARGET.")
@target_option
@names_option("--methods", names=methods_of_atlas, text="Methods to rank. Default: all of the atlas.")
@path_option(
    "--truth",
    metavar="FILE|DIR",
    text="Boxes or masks of some images: rank by localization on these, and choose policy and threshold by them.",
)
@truth_options
@count_option("--images", default=200, text="Images drawn for the signals.")
@count_option("--seed", default=0, minimum=0, text="Random seed of the draw.")
@choice_option("--device", ["auto", "cpu", "cuda"], "Device of the network.", "auto")
@partial_option
@address_option
@allow_pipe_option
@output.json_option
def rank_command(
    atlas: str,
    out: str | None,
    target: str,
    methods: str | None,
    truth: str | None,
    truth_orientation: TruthOrientation | None,
    mask_values: MaskValues | None,
    images: int,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    partial: bool,
    address: str | None,
    allow_pipe: bool,
    json_: bool,
) -> None:
    """Rank methods by signals that need no truth, or by truth of a few images, and write a policy.

    Each signal is checked on this network: whether it recognises a crop, an image without half of its patches, or the
    images of a mosaic. A method fails if it is no better than a control in every valid signal, if its maps are
    constant, or if they are equal for all classes; it stands if it is better than every control in most of them. The
    policy is of methods that stand; with --truth it is the best single method or pair, with a calibrated threshold.

    \b
    Examples:
      vitatlas rank val.atlas
      vitatlas rank val.atlas --truth annotations.json
      vitatlas label val.atlas --policy val.atlas/rank/label/policy.yaml
    """
    from pipeline.rank import RankOptions, rank_atlas
    from pipeline.run.execution import ComputeOptions
    from pipeline.store import Atlas
    from pipeline.truth import read_truth
    from schemas.rank import POLICY_FILE, default_folder

    opened = Atlas.open(atlas)
    output.check_complete(opened, partial)
    truths = read_truth(truth, truth_orientation, mask_values, opened.run.spec.key_separator) if truth else None
    options = RankOptions(images, seed, truths, ComputeOptions(address, allow_pipe, device))
    record = rank_atlas(opened, out, target, split_names(methods), options, lambda line: echo(line, err=True))
    folder = out or f"{atlas.rstrip('/')}/{default_folder(record.target)}"
    if json_:
        output.print_json({"out": folder} | record.model_dump(mode="json"))
        return
    _print_signals(record)
    _print_methods(record)
    if record.policy:
        echo(f"policy   {folder}/{POLICY_FILE}: {', '.join(record.policy)}")
        if score := record.policy_score:
            held_out, own = 100 * score.cross_validated, 100 * score.overlap
            interval = format_interval(100 * score.low, 100 * score.high)
            echo(
                f"overlap  {held_out:.1f} % ({interval}), mean IoU of {score.of} on images left out of the "
                f"choice; {own:.1f} % on the {score.images} images of the choice"
            )
    else:
        echo(f"policy   none: no method {'has maps that are not degenerate' if record.truth else 'stands'}")
    echo(f"written  {folder}")


def _print_signals(record: "RankRecord") -> None:
    output.print_table(
        "signals on this network",
        ["signal", "valid", "kappa", "why"],
        [
            [name, "yes" if check.valid else "no", check.agreement, check.reason]
            for name, check in record.signals.items()
        ],
    )


def _print_methods(record: "RankRecord") -> None:
    names = [name for name, check in record.signals.items() if check.valid]
    localization = next((row.localization.score for row in record.methods if row.localization), None)
    rows = []
    for row in record.methods:
        cells = [_format(row.signals.get(name)) for name in names]
        if localization:
            cells.insert(0, _format_localization(row.localization))
        rows.append([row.method, row.verdict or "control", row.rank, *cells, row.reason])
    title = f"methods, best first; signals on {record.images} images: mean and 95 % interval"
    by_truth = [f"{localization} %"] if localization else []
    output.print_table(title, ["method", "verdict", "rank", *by_truth, *names, "reason"], rows)


def _format(score: "SignalScore | None") -> str | None:
    return None if score is None else f"{format_number(score.mean, 2)} ({format_interval(score.low, score.high, 2)})"


def _format_localization(score: "LocalizationScore | None") -> str | None:
    if score is None or score.low is None or score.high is None:
        return None if score is None else f"{score.value:.1f}"
    return f"{score.value:.1f} ({format_interval(score.low, score.high)})"
