"""Golden backbones with their head files, as folders and shards that commands take."""

import json
import shutil
from pathlib import Path

import numpy as np
from golden_models import GOLDEN
from PIL import Image
from support import write_tar

from pipeline.explain import Head
from schemas.run import ModelSpec

OPEN = GOLDEN / "open"


class Tower:
    """A folder with a golden backbone, its head file with readable class names, and a shard of six images."""

    def __init__(self, case: str, folder: Path) -> None:
        self.folder, self.head = folder / "tower", folder / "head.safetensors"
        self.folder.mkdir()
        shutil.copy(OPEN / f"{case}_backbone.safetensors", self.folder / "model.safetensors")
        config = json.loads((OPEN / f"{case}_config.json").read_text())
        config["pretrained_cfg"] = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"}
        (self.folder / "config.json").write_text(json.dumps(config))
        golden = Head.load(OPEN / f"{case}_head.safetensors")
        self.names = tuple(f"a photo of a {animal}" for animal in ("cat", "dog", "owl", "eel", "ant", "bee"))
        self.names = self.names[: len(golden.classes)]
        Head(golden.record.model_copy(update={"classes": self.names}), golden.tensors).save(self.head)
        rng = np.random.default_rng(0)
        self.images = {f"s{n}": Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)) for n in range(6)}
        members, masks = [], folder / "masks"
        masks.mkdir()
        for number, (key, image) in enumerate(self.images.items()):
            image.save(folder / f"{key}.png")
            members += [(f"{key}.png", (folder / f"{key}.png").read_bytes()), (f"{key}.cls", str(number % 3).encode())]
            mask = np.zeros((40, 36), np.uint8)
            mask[5 : 20 + number, 8:25] = 1
            Image.fromarray(mask).save(masks / f"{key}.png")
        self.shard, self.masks = write_tar(folder / "shard.tar", members), masks
        self.model = ["--model", f"local-dir:{self.folder}", "--pretrained", "--head", self.head]
        self.spec = ModelSpec(name=f"local-dir:{self.folder}", pretrained=True, head=str(self.head))
