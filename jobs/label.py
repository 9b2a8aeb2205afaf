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
    table = label(atlas, policy, [name.strip() for name in formats.split(",")], out)
    statuses = Counter(table["status"].to_pylist())
    show.table(f"labels by {policy.name} in {out}", ["status", "count"], [[k, v] for k, v in statuses.items()])
