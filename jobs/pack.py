"""``vitatlas pack``."""

from pathlib import Path

import click

from jobs import output
from jobs.params import address_option, count_option, path_option, read_class_names
from pipeline.utils.terminal import echo

KINDS = ("folder", "imagenet", "cub", "lists", "voc", "coco")


@click.command("pack")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("source", type=click.Path(path_type=Path))
@path_option("--out", metavar="DIR", text="Output folder.", required=True)
@click.option("--split", metavar="NAME", help="Split of the source. Default: the only one.")
@path_option("--classes", "classes_file", metavar="FILE", text="Classes in the order of their ids, one a line.")
@count_option("--per-shard", text="Largest number of samples in a shard.", default=1000)
@address_option
@output.json_option
def pack_command(
    kind: str,
    source: Path,
    out: str,
    split: str | None,
    classes_file: str | None,
    per_shard: int,
    address: str | None,
    json_: bool,
) -> None:
    """Pack a dataset into WebDataset shards, with class names and truth.

    \b
    folder    a folder of images for each class; or a CSV or JSONL of path, label, split
    imagenet  ILSVRC 2012: train or val, folders or tars, the development kit, XML boxes
    cub       CUB-200-2011: boxes, segmentations, train or test
    lists     metadata of wsolevaluation, and the images it names
    voc       Pascal VOC: boxes, segmentations, several labels an image
    coco      COCO instances, several labels an image

    Writes OUT/SPLIT-00000.tar and on, classes.txt (line number = class id), truth for vitatlas score, and left_out.csv.
    Bytes of images are copied. Run the same command again to resume after an interruption.

    \b
    Examples:
      vitatlas pack folder photos --out shards
      vitatlas pack imagenet /data/imagenet --split val --out val
    """
    from pipeline.pack import pack
    from pipeline.pack.class_order import describe_first_difference

    def log(line: str) -> None:
        echo(f"note     {line}", err=True)

    classes = read_class_names(classes_file)
    record, samples = pack(kind, source, Path(out), split, classes, per_shard, address, log)
    if difference := describe_first_difference(Path(out)):
        log(difference)
    if json_:
        output.print_json(record.model_dump() | {"samples": samples})
        return
    shards = "1 shard" if record.shards == 1 else f"{record.shards} shards"
    echo(f"packed   {samples} of {record.images} images, {record.classes} classes, {shards} in {out}")
    echo(f"next     vitatlas run '{out}/{record.split}-*.tar' --out ATLAS --model NAME")
