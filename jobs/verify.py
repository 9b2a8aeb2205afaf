"""``vitatlas verify``."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from jobs import output
from jobs.params import PATH_OR_URL, CountOrDuration
from pipeline.utils.terminal import echo
from schemas.errors import AtlasError, RunFailedError, StoppedEarlyError
from schemas.layout import RUN

if TYPE_CHECKING:
    from pipeline.audit.verify_products import ProductsResult
    from pipeline.store import Atlas, MapReader

_MAX_LISTED = 10
"""Shards that a message names."""


@click.command("verify")
@click.argument("places", metavar="[NAME=]ATLAS|DIR…", type=PATH_OR_URL, nargs=-1, required=True)
@click.option(
    "--recompute",
    "amount",
    type=CountOrDuration(),
    default="1m",
    metavar="N|TIME",
    help="Recompute the maps of N samples, or of as many as a time such as 30s allows, and compare; 0: of none. Whole "
    "batches are computed, since the last bits of a map depend on its batch.",
)
@click.option("--allow-pipe", is_flag=True, help="Accept pipe: shards, which run shell commands.")
@click.option("--seed", type=int, default=0, metavar="N", help="Seed that chooses the samples of --recompute.")
@output.json_option
def verify_command(places: tuple[str, ...], amount: int | float, seed: int, allow_pipe: bool, json_: bool) -> None:
    """Verify atlases, or products of them: every object is present and unchanged, and nothing else is there.

    Counts rows, compares sizes and checksums, finds missing maps, duplicate keys and stray objects, compares the shards
    with those that were read by size, ETag and headers, and recomputes a few maps from them. Products are labels,
    scores, metrics and audits: those in the atlas, or those in folders that are named. A product that is named with the
    atlases that it was made from is compared with their maps, too; atlases of several networks need the same names.
    Prints a line for each fault. Exits with 1 if there is a fault, or if no map could be recomputed; with 75 if there
    is none but the run or a product is not complete.

    \b
    Examples:
      vitatlas verify train.atlas
      vitatlas verify train.atlas --recompute 10m
      vitatlas verify masks
      vitatlas verify vit=vit.atlas dino=dino.atlas masks
    """
    from pipeline.audit.verify_products import is_product
    from pipeline.store import Atlas, ObjectStore
    from pipeline.utils.source_name import split_source_name

    stores = {text: ObjectStore(split_source_name(text)[1]) for text in places}
    products = [text for text, objects in stores.items() if not objects.exists(RUN) and is_product(objects)]
    atlases = [text for text in places if text not in products]
    opened = [Atlas.open(split_source_name(text)[1]) for text in atlases]
    joined = Atlas.open(atlases, subset=True) if atlases and products else None
    documents: list[dict[str, Any]] = []
    errors: list[AtlasError | None] = []
    for atlas in opened:
        found, error = _verify_atlas(atlas, amount, seed, allow_pipe, json_)
        documents.append(found)
        errors.append(error)
    for text in products:
        found, error = _verify_product(stores[text].url, joined, json_)
        documents.append(found)
        errors.append(error)
    if json_:
        several = {"atlases": documents[: len(opened)], "products": documents[len(opened) :]}
        output.print_json(documents[0] if len(documents) == 1 else several)
    for kind in (RunFailedError, StoppedEarlyError):  # faults are worse than what is not finished
        for error in errors:
            if isinstance(error, kind):
                raise error


def _verify_atlas(
    opened: "Atlas", amount: int | float, seed: int, allow_pipe: bool, json_: bool
) -> tuple[dict[str, Any], AtlasError | None]:
    """Verify an atlas and the products in it; return its document and its error, if there is one."""
    from pipeline.audit.verify_products import verify_products
    from pipeline.store.verify import verify
    from pipeline.utils.concurrency import MAX_PENDING
    from pipeline.utils.progress import progress_bars

    atlas, recomputed = opened.url, None
    with progress_bars() as add_bar:
        verified = verify(opened, add_bar("verify", MAX_PENDING))
        if amount and not verified.faults:
            from pipeline.run.recompute_maps import recompute

            count, seconds = (amount, math.inf) if isinstance(amount, int) else (None, amount)
            recomputed = recompute(opened, count, seconds, seed, allow_pipe, add_bar("recompute"))
        products = verify_products(opened, add_bar("verify products"))
    faults, damaged = (recomputed or verified).faults, (recomputed or verified).damaged
    if not json_:
        echo(f"{atlas}: {verified.objects:,} objects were compared with their commits")
        if recomputed:
            echo(f"{atlas}: {recomputed.maps:,} maps were recomputed, {recomputed.equal:,} of them bit-identical")
        for note in [*verified.notes, *(recomputed.notes if recomputed else [])]:
            echo(f"note     {note}")
        for fault in faults:
            echo(f"fault    {fault}")
        _print_products(products)
    compared = {"atlas": atlas, "objects": verified.objects, "missing": verified.missing}
    summary = recomputed and {name: getattr(recomputed, name) for name in ("maps", "equal", "notes")}
    notes = {"products": _summarize(products), "notes": verified.notes, "versions": verified.versions}
    error: AtlasError | None = _error_of(products)
    if faults:
        error = RunFailedError(f"{atlas}: {len(faults)} faults; {_how_to_repair(atlas, damaged)}")
    elif error is None and verified.missing:
        error = StoppedEarlyError(f"{verified.missing} shards are not done; resume with: vitatlas run {atlas}")
    return compared | {"recomputed": summary, "faults": faults, "damaged": damaged} | notes, error


def _verify_product(url: str, atlas: "MapReader | None", json_: bool) -> tuple[dict[str, Any], AtlasError | None]:
    """Verify a product, with what it was made from if that is known; return its document and its error."""
    from pipeline.audit.verify_products import verify_folder
    from pipeline.utils.progress import progress_bars

    with progress_bars() as add_bar:
        result = verify_folder(url, add_bar("verify"), atlas)
    if not json_:
        _print_products(result)
    return _summarize(result), _error_of(result)


def _summarize(products: "ProductsResult") -> dict[str, Any]:
    return {name: getattr(products, name) for name in ("objects", "folders", "unfinished", "partial", "faults")}


def _print_products(products: "ProductsResult") -> None:
    for folder in products.folders:
        unfinished = ", it is not finished" if folder in products.unfinished else ""
        partial = f", it is of {shards:,} shards only" if (shards := products.partial.get(folder)) else ""
        echo(f"product  {folder}{unfinished}{partial}")
    if products.folders:
        echo(f"{products.objects:,} objects of products were compared with their records")
    for fault in products.faults:
        echo(f"fault    {fault}")


def _error_of(products: "ProductsResult") -> AtlasError | None:
    """Return the error of faulty or unfinished products."""
    if products.faults:
        return RunFailedError(
            f"{len(products.faults)} faults in products; remove what belongs to nothing, and run again the commands "
            "that made the others"
        )
    if products.unfinished:
        return StoppedEarlyError(f"{products.unfinished[0]}: is not finished; run the command that makes it again")
    return None


def _how_to_repair(atlas: str, damaged: Sequence[str]) -> str:
    if not damaged:
        return "restore shards, remove stray objects; the plan command again rewrites the metadata of maps.zarr"
    places = [shard.rpartition("/") for shard in damaged[:_MAX_LISTED]]
    records = " ".join(f"{atlas}/{part}{slash}commits/{name}.json" for part, slash, name in places)
    more = f" and {len(damaged) - _MAX_LISTED} more" if len(damaged) > _MAX_LISTED else ""
    return f"to repair these shards, remove {records}{more}, then: vitatlas run {atlas}"
