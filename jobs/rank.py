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
)
from pipeline.utils.terminal import echo

if TYPE_CHECKING:
    from schemas.rank import RankRecord, SignalScore


@click.command("rank")
@click.argument("atlas", type=PATH_OR_URL)
@path_option("--out", metavar="DIR", text="Output folder. Default: ATLAS/rank/TARGET.")
@target_option
@names_option("--methods", names=methods_of_atlas, text="Methods to rank. Default: all of the atlas.")
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
    images: int,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    partial: bool,
    address: str | None,
    allow_pipe: bool,
    json_: bool,
) -> None:
    """Rank methods by signals that need no truth, and write a policy of those that stand.

    Each signal is checked on this network: whether it recognises a crop, an image without half of its patches, or the
    images of a mosaic. A method fails if it is no better than a control in every valid signal, if its maps are
    constant, or if they are equal for all classes; it stands if it is better than every control in most of them.

    \b
    Examples:
      vitatlas rank val.atlas
      vitatlas label val.atlas --policy val.atlas/rank/label/policy.yaml
    """
    from pipeline.rank import RankOptions, rank_atlas
    from pipeline.run.execution import ComputeOptions
    from pipeline.store import Atlas
    from schemas.rank import POLICY_FILE, default_folder

    opened = Atlas.open(atlas)
    output.check_complete(opened, partial)
    options = RankOptions(images, seed, ComputeOptions(address, allow_pipe, device))
    record = rank_atlas(opened, out, target, split_names(methods), options, lambda line: echo(line, err=True))
    folder = out or f"{atlas.rstrip('/')}/{default_folder(record.target)}"
    if json_:
        output.print_json({"out": folder} | record.model_dump(mode="json"))
        return
    _print_signals(record)
    _print_methods(record)
    if record.policy:
        echo(f"policy   {folder}/{POLICY_FILE}: {', '.join(record.policy)}")
    else:
        echo("policy   none: no method stands")
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
    rows = []
    for row in record.methods:
        signals = [_format(row.signals.get(name)) for name in names]
        rows.append([row.method, row.verdict or "control", row.rank, *signals, row.reason])
    title = f"methods by {record.images} images, best first; mean of each valid signal and its 95 % interval"
    output.print_table(title, ["method", "verdict", "rank", *names, "reason"], rows)


def _format(score: "SignalScore | None") -> str | None:
    return None if score is None else f"{score.mean:.2f} ({score.low:.2f}–{score.high:.2f})"
