"""Finished scores in an output folder: which may be continued, and which are of something else."""

from collections.abc import Sequence

from pipeline.score.counted_source import TABLE
from pipeline.store import ObjectStore
from pipeline.store.derived import check_output_dir
from schemas.errors import UsageError
from schemas.layout import ABOUT, COMPARISON
from schemas.scores import ComparisonSpec, ScoringSpec


def check_scores(objects: ObjectStore, about: ScoringSpec) -> None:
    """Refuse to overwrite finished scores of something else; unfinished ones are continued.

    Args:
        objects: output folder.
        about: settings of the scores that will be written there.

    Raises:
        UsageError: the folder holds something else.
    """
    if objects.exists(COMPARISON):
        raise UsageError(f"{objects.url}: holds scores of several sources; name another --out, or remove it")
    finished = objects.exists(TABLE)
    may_differ = ("protocol", "tuning") if finished else tuple(ScoringSpec.model_fields)
    previous = check_output_dir(objects, ABOUT, about, may_differ)
    if finished and previous and _tuning_source(previous) != _tuning_source(about):
        raise UsageError(f"{objects.url}: holds scores with another tuning split; name another --out, or remove it")


def _tuning_source(about: ScoringSpec) -> tuple[str | None, str | None]:
    return about.tuning.truth, about.tuning.atlas


def compare(abouts: Sequence[ScoringSpec], folders: Sequence[str]) -> ComparisonSpec:
    """Return the settings of scores of several sources.

    Args:
        abouts: settings of each source.
        folders: of each source in the output folder.
    """
    first = abouts[0]
    return ComparisonSpec(
        truth=first.truth,
        name=first.name,
        subset=first.subset,
        grid_step=first.grid_step,
        tuning=first.tuning.truth,
        sources={folder: about.run for folder, about in zip(folders, abouts, strict=True)},
    )


def check_comparison(objects: ObjectStore, about: ComparisonSpec) -> None:
    """Refuse to overwrite scores of other sources, or with other settings; sources may be added.

    Args:
        objects: output folder.
        about: settings of the scores that will be written there.

    Raises:
        UsageError: the folder holds something else.
    """
    if objects.exists(ABOUT):
        raise UsageError(f"{objects.url}: holds scores of one source; name another --out, or remove it")
    previous = check_output_dir(objects, COMPARISON, about, ("protocol", "sources"))
    for folder, run in previous.sources.items() if previous else ():
        if about.sources.get(folder) != run:
            raise UsageError(
                f"{objects.url}: holds scores of another {folder.rstrip('/')}; name that source again, or another --out"
            )
