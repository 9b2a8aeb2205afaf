"""Drawn photos in class folders, and boxes of their objects in CSV: ``python docs/examples/draw_photos.py DIR``."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.demo.scenes import CLASSES, render

PER_CLASS = 3


def main() -> None:
    """Write ``DIR/photos/<class>/<number>.jpg``, ``DIR/boxes.csv`` and ``DIR/names.txt``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    lines = ["image_id,x0,y0,x1,y1"]
    for number in range(PER_CLASS * len(CLASSES)):
        label = number % len(CLASSES)
        scene = render(np.random.default_rng([4, number]), 160, 120, label)
        name = f"{CLASSES[label].name}/{number:03d}.jpg"
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(path, quality=90)
        for mask in scene.masks:
            rows, columns = np.nonzero(mask)
            lines.append(f"{name},{columns.min()},{rows.min()},{columns.max()},{rows.max()}")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    (folder / "names.txt").write_text("".join(f"{scene_class.name}\n" for scene_class in CLASSES))


if __name__ == "__main__":
    main()
