"""Exporter to Quantus, a library of metrics of explanations: the arrays that its metrics take, one folder per shard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from pipeline.audit.exports.base import AtlasContext, AuditExporter, ShardData, prepare_path
from schemas.audit_records import ExportSpec
from schemas.run_record import RunRecord

README = "README.md"


class QuantusExporter(AuditExporter):
    """``shards/<shard>/`` with the arrays of the n samples that have maps, in the order of the rows, and a README.

    - ``x.npy`` – uint8 [n, 3, H, W], the input of the network before normalization, a quarter of the size; missing
      without pixels.
    - ``y.npy`` – int64 [n], class ids that the maps explain. ``row.npy`` – int64 [n], rows of the samples in the atlas.
    - ``a/<method>.npy`` – float32 [n, 1, h, w] in [0, 1] on the patch grid, 0 everywhere in degenerate
      maps. Metrics need the size of x, which two ``repeat`` give exactly; stored, it would be 256 times as large.
    - ``s.npy`` – bool [n, 1, H, W], object masks; ``known.npy`` – bool [n], True with truth. Both are missing
      without truth.
    """

    def export_shard(self, data: ShardData, run: RunRecord, folder: Path) -> Iterator[str]:
        prefix, size = f"shards/{data.shard}", run.model.input_size
        yield _save(folder, f"{prefix}/y.npy", data.class_ids)
        yield _save(folder, f"{prefix}/row.npy", data.samples["row"].to_numpy())
        for method, maps in data.maps.items():
            yield _save(folder, f"{prefix}/a/{method}.npy", maps[:, None])
        if data.pixels is not None:
            begin, x = 0, open_memmap(prepare_path(folder, f"{prefix}/x.npy"), "w+", np.uint8, (len(data), 3, *size))
            for pixels in data.pixels:
                x[begin : begin + len(pixels)] = pixels
                begin += len(pixels)
            x.flush()
            yield f"{prefix}/x.npy"
        if data.masks is not None:
            s = open_memmap(prepare_path(folder, f"{prefix}/s.npy"), "w+", np.bool_, (len(data), 1, *size))
            has_mask = np.zeros(len(data), np.bool_)
            for place, mask in enumerate(data.masks):
                has_mask[place] = mask is not None
                s[place] = False if mask is None else mask
            s.flush()
            yield f"{prefix}/s.npy"
            yield _save(folder, f"{prefix}/known.npy", has_mask)

    def export_all(self, context: AtlasContext, folder: Path) -> Iterator[str]:
        prepare_path(folder, README).write_text(_render_readme(context), "utf-8")
        yield README

    def atlas_files(self, about: ExportSpec) -> tuple[str, ...]:
        return (README,)


def _save(folder: Path, name: str, values: NDArray[Any]) -> str:
    np.save(prepare_path(folder, name), values)
    return name


def _render_readme(context: AtlasContext) -> str:
    model, about, shards = context.run.model, context.about, context.samples["shard"].to_pylist()
    (height, width), (rows, columns) = model.input_size, model.grid
    mean, std = ([[[value]] for value in values] for values in (model.mean, model.std))
    pixels = 'load("x")' if about.pixels else f"np.full((len(y), 3, {height}, {width}), 128, np.uint8)"
    masks = ', load("s"), load("known")' if about.truth else ""
    shard = f"shard = {shards[0]!r}  # or {shards[-1]!r}, …" if shards[0] != shards[-1] else f"shard = {shards[0]!r}"
    return _TEXT.format(
        run=about.run,
        images=len(shards),
        target=about.target,
        methods=", ".join(f"`{method}`" for method in about.methods),
        method=about.methods[0],
        shard=shard,
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

Maps of {images} images, of target kind *{target}*, by {methods}; made by the run `{run}`.

```python
import numpy as np, quantus
{shard}
load = lambda name: np.asarray(np.load(f"shards/{{shard}}/{{name}}.npy", mmap_mode="r"))
{names} = load("y"), load("a/{method}").repeat({down}, 2).repeat({across}, 3){masks}
x = ({pixels} / np.float32(255) - np.float32({mean})) / np.float32({std})
{use}
```

- `x.npy`: uint8 [n, 3, H, W], the images as the network sees them, if exported; the fifth line normalizes them.
- `y.npy`: int64 [n], the class ids that the maps explain. `row.npy`: int64 [n], rows of the samples in the atlas.
- `a/<method>.npy`: float32 [n, 1, h, w] in [0, 1] on the patch grid, which `repeat` brings to the size of x. A
  degenerate map is 0 everywhere: `a.any((1, 2, 3))` selects the others.
- `s.npy`: bool [n, 1, H, W], object masks, and `known.npy`: bool [n], True with truth; if truth was given.

`np.asarray` copies nothing, but Quantus accepts no subclass of NumPy arrays. Metrics that run the network take it as
`model=`. For large shards take a slice: `x[:64]`, `a[:64]`, …
"""
_WITHOUT_MASKS = "scores = quantus.Sparseness()(model=None, x_batch=x, y_batch=y, a_batch=a)"
_WITH_MASKS = """scores = quantus.RelevanceMassAccuracy()(
    model=None, x_batch=x[known], y_batch=y[known], a_batch=a[known], s_batch=s[known]
)"""
