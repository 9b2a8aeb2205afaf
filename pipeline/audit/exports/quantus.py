"""Arrays for Quantus, a library of metrics of explanations: what its metrics are called with, a folder for each shard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from pipeline.audit.exports.base import AtlasContext, ShardData, prepare_path
from pipeline.store import ObjectStore
from schemas.audit_records import ExportRecord
from schemas.run import RunRecord

README = "README.md"


class QuantusExporter:
    """``shards/<shard>/`` with the arrays of the n samples of a shard that have maps, in the order of the rows, and a README.

    - ``x.npy`` – uint8 [n, 3, H, W], what the network saw, before normalisation: a quarter of the size. None without
      pictures.
    - ``y.npy`` – int64 [n], the class that is explained. ``row.npy`` – int64 [n], of the samples in the atlas.
    - ``a/<method>.npy`` – float32 [n, 1, h, w] in [0, 1] on the patch grid, 0 everywhere where a map says nothing.
      Metrics want it as large as x, which two ``repeat`` make of it exactly; stored, it would be 256 times the size.
    - ``s.npy`` – bool [n, 1, H, W], where the object is; ``known.npy`` – bool [n], whether that is known. None without
      truth.
    """

    def require(self) -> None:
        return

    def check(self, about: ExportRecord, audit: ObjectStore) -> None:
        return

    def of_shard(self, part: ShardData, run: RunRecord, folder: Path) -> Iterator[str]:
        where, size = f"shards/{part.shard}", run.model.input_size
        yield _save(folder, f"{where}/y.npy", part.classes)
        yield _save(folder, f"{where}/row.npy", part.samples["row"].to_numpy())
        for method, maps in part.maps.items():
            yield _save(folder, f"{where}/a/{method}.npy", maps[:, None])
        if part.pixels is not None:
            begin, x = 0, open_memmap(prepare_path(folder, f"{where}/x.npy"), "w+", np.uint8, (len(part), 3, *size))
            for pixels in part.pixels:
                x[begin : begin + len(pixels)] = pixels
                begin += len(pixels)
            x.flush()
            yield f"{where}/x.npy"
        if part.masks is not None:
            s = open_memmap(prepare_path(folder, f"{where}/s.npy"), "w+", np.bool_, (len(part), 1, *size))
            known = np.zeros(len(part), np.bool_)
            for place, mask in enumerate(part.masks):
                known[place] = mask is not None
                s[place] = False if mask is None else mask
            s.flush()
            yield f"{where}/s.npy"
            yield _save(folder, f"{where}/known.npy", known)

    def of_all(self, whole: AtlasContext, folder: Path) -> Iterator[str]:
        prepare_path(folder, README).write_text(_readme(whole), "utf-8")
        yield README

    def atlas_files(self, about: ExportRecord) -> tuple[str, ...]:
        return (README,)


def _save(folder: Path, name: str, values: NDArray[Any]) -> str:
    np.save(prepare_path(folder, name), values)
    return name


def _readme(whole: AtlasContext) -> str:
    model, about, shards = whole.run.model, whole.about, whole.samples["shard"].to_pylist()
    (height, width), (rows, columns) = model.input_size, model.grid
    mean, std = ([[[each]] for each in values] for values in (model.mean, model.std))
    pixels = 'load("x")' if about.pixels else f"np.full((len(y), 3, {height}, {width}), 128, np.uint8)"
    masks = ', load("s"), load("known")' if about.truth else ""
    further = f"shard = {shards[0]!r}  # or {shards[-1]!r}, …" if shards[0] != shards[-1] else f"shard = {shards[0]!r}"
    return _TEXT.format(
        run=about.run,
        number=len(shards),
        target=about.target,
        methods=", ".join(f"`{method}`" for method in about.methods),
        method=about.methods[0],
        shard=further,
        names=f"y, a{', s, known' if about.truth else ''}",
        masks=masks,
        down=height // rows,
        across=width // columns,
        pixels=pixels,
        mean=mean,
        std=std,
        use=_WITH_MASKS if about.truth else _WITHOUT_MASKS,
    )


_TEXT = """# Attribution maps as arrays for Quantus

Maps of {number} pictures, of the class that is the *{target}*, by {methods}; made by the run `{run}`.

```python
import numpy as np, quantus
{shard}
load = lambda name: np.asarray(np.load(f"shards/{{shard}}/{{name}}.npy", mmap_mode="r"))
{names} = load("y"), load("a/{method}").repeat({down}, 2).repeat({across}, 3){masks}
x = ({pixels} / np.float32(255) - np.float32({mean})) / np.float32({std})
{use}
```

- `x.npy`: uint8 [n, 3, H, W], what the network saw, if pictures were exported; the fifth line makes its input of it.
- `y.npy`: int64 [n], the class that is explained. `row.npy`: int64 [n], of the samples in the atlas.
- `a/<method>.npy`: float32 [n, 1, h, w] in [0, 1] on the patch grid, which `repeat` brings to the size of x. A map that
  says nothing is 0 everywhere: `a.any((1, 2, 3))` tells the others.
- `s.npy`: bool [n, 1, H, W], where the object is, and `known.npy`: bool [n], whether that is known; if truth was given.

`np.asarray` copies nothing, but Quantus refuses any class of arrays but NumPy's own. Metrics that ask the network take
it as `model=`. Of large shards take a slice: `x[:64]`, `a[:64]`, …
"""
_WITHOUT_MASKS = "scores = quantus.Sparseness()(model=None, x_batch=x, y_batch=y, a_batch=a)"
_WITH_MASKS = """scores = quantus.RelevanceMassAccuracy()(
    model=None, x_batch=x[known], y_batch=y[known], a_batch=a[known], s_batch=s[known]
)"""
