"""``vitatlas verify``."""

import click

from schemas.errors import RunFailed, StoppedEarly


@click.command("verify")
@click.argument("atlas")
def command(atlas: str) -> None:
    """Check every object of an atlas against its commit record.

    Compares lengths, checksums and row counts, and looks for maps that should be there and are not. Exits
    with 1 if something is wrong, with 75 if all is well but the run is not complete.

    \b
    Example:
      vitatlas verify train.atlas
    """
    from pipeline.store.verify import verify

    checked, problems, missing = verify(atlas)
    if problems:
        listed = "\n  ".join(problems)
        raise RunFailed(
            f"{atlas}: {len(problems)} of {checked} objects are not as committed:\n  {listed}\n"
            f"to mend it, remove the commits/TAR.json of the tars they belong to, and: vitatlas run {atlas}"
        )
    click.echo(f"{atlas}: {checked} objects are as committed")
    if missing:
        raise StoppedEarly(f"{missing} tars are not done yet; go on with: vitatlas run {atlas}")
