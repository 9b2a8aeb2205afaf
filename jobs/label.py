"""``vitatlas label``."""

import click

from jobs import show


@click.command("label")
@click.argument("atlas")
@click.option("--policy", "policy_file", required=True, metavar="FILE", help="YAML of the policy.")
@click.option("--format", "formats", default="png,coco", show_default=True, metavar="A,B", help="Of the masks.")
@click.option("--out", metavar="DIR", help="Default: ATLAS/labels/NAME of the policy.")
def command(atlas: str, policy_file: str, formats: str, out: str | None) -> None:
    """Make pseudo-masks from the maps, by a policy.

    \b
    Example:
      cat > otsu.yaml <<EOF
      name: legrad-otsu
      method: legrad
      cut: {kind: otsu}
      keep: largest
      min_area: 0.01
      EOF
      vitatlas label train.atlas --policy otsu.yaml --format png,coco --out masks
    """
    from collections import Counter

    from pipeline.label import label, read_policy
    from schemas.layout import LABELS

    policy = read_policy(policy_file)
    out = out or f"{atlas.rstrip('/')}/{LABELS}/{policy.name}"
    show.note_partial(atlas)
    chosen = [name.strip() for name in formats.split(",")]
    table = label(atlas, policy, chosen, out)
    statuses = Counter(table["status"].to_pylist())
    show.table(f"labels by {policy.name}", ["status", "count"], [[k, v] for k, v in statuses.items()])
    areas = [area for area in table["area"].to_pylist() if area is not None]
    if areas:
        click.echo(f"foreground is {100 * sum(areas) / len(areas):.1f} % of a picture, on average")
    click.echo(f"written to {out}: labels/, {', '.join(f'{name}/' for name in chosen)}, policy.json")
