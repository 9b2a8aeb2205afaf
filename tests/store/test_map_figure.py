"""An atlas in a notebook: a table that is safe to look at, maps over their pictures, and what libraries take."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pipeline.store import Atlas, ObjectStore
from schemas.errors import UsageError
from schemas.run_record import RunRecord


def with_shards_at(atlas: Atlas, place: str) -> Atlas:
    """The same atlas, whose shards are said to lie elsewhere."""
    content = atlas.run.model_dump(mode="json")
    for shard in content["shards"]:
        shard["url"] = place.format(shard=shard["name"])
    return Atlas(atlas.objects, RunRecord.model_validate(content))


def test_a_notebook_is_told_what_the_atlas_is_of(atlas: Atlas) -> None:
    shown = atlas._repr_html_()
    for text in (
        atlas.objects.url,
        atlas.run.model.name,
        "8×8",
        "attention, legrad",
        "label, predicted",
        "2 of 2 done",
    ):
        assert text in shown


def test_texts_of_strangers_do_nothing_in_a_notebook(atlas: Atlas, tmp_path: Path) -> None:
    run = atlas.run.model_copy(
        update={"model": atlas.run.model.model_copy(update={"name": "<script>alert(1)</script>\x1b[31m"})}
    )
    shown = Atlas(ObjectStore(str(tmp_path / "<img src=x>")), run)._repr_html_()
    assert "<script" not in shown
    assert "<img" not in shown
    assert "\x1b" not in shown
    assert "&lt;script&gt;" in shown


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def test_a_map_is_shown_over_its_picture(atlas: Atlas) -> None:
    one, all_of_them = atlas.show("scene_000003", "legrad"), atlas.show("scene_000003")
    assert one.width < all_of_them.width  # a panel for the picture, one for each method
    assert np.array_equal(pixels(one), pixels(atlas.show(3, "legrad")))
    assert not np.array_equal(pixels(one), pixels(atlas.show(3, "attention")))
    one._repr_png_()


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("/nowhere/{shard}.tar", "no such file"),
        ("pipe:touch {shard}.ran", "runs a shell command"),
        ("{folder}/demo-validation-01.tar", "is not the one in the atlas"),
    ],
)
def test_without_its_tar_a_map_is_shown_alone_and_that_is_said(
    atlas: Atlas, world, place: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = with_shards_at(atlas, place.replace("{folder}", str(world.folder / "shards")))
    with pytest.warns(UserWarning, match=says):
        shown = elsewhere.show("scene_000003", "legrad")
    assert shown.width < atlas.show("scene_000003", "legrad").width
    assert not list(tmp_path.iterdir())


def test_large_and_odd_pictures_are_shown_small(atlas: Atlas, tmp_path: Path) -> None:
    from pipeline.store.map_figure import plot_maps

    sample = {
        "shard": atlas.run.shards[0].name, "ordinal": 0, "key": "$x^$ \x1b", "label": None, "prediction": 1,
        "width": 60_000, "height": 10, "scale_x": 625.0, "scale_y": 10 / 96, "offset_x": 0.0, "offset_y": 0.0,
    }  # fmt: skip
    assert (
        plot_maps(atlas.shard(sample["shard"]), sample, {"legrad": np.eye(8, dtype=np.float32)}, "label").width < 2000
    )


def test_what_cannot_be_shown_is_named(atlas: Atlas) -> None:
    for call in (lambda: atlas.show("nobody"), lambda: atlas.show(3, "gradcam"), lambda: atlas.dataset("gradcam")):
        with pytest.raises(UsageError, match="has no"):
            call()


def test_all_methods_are_one_lazy_dataset_with_named_dimensions(atlas: Atlas) -> None:
    data = atlas.to_xarray()
    assert set(atlas.methods) <= set(data)
    assert dict(data.sizes) == {"row": 48, "target": 2, "y": 8, "x": 8, "bound": 2}
    assert not any(variable._in_memory for name, variable in data.variables.items() if name != "target")
    one = data["legrad"].sel(target="predicted").isel(row=7)
    assert np.array_equal(one.values.astype(np.float32), atlas.map(7, "legrad", "predicted"))


def test_the_sample_table_is_a_data_frame_in_one_call(atlas: Atlas) -> None:
    frame = atlas.samples().to_pandas()
    assert len(frame) == 48
    assert set(frame[frame.status == "ok"].row) == set(range(48))


def test_a_loader_of_torch_gets_every_map_with_its_row_once(atlas: Atlas) -> None:
    dataset = atlas.dataset("legrad", "predicted")
    seen: dict[int, torch.Tensor] = {}
    for maps, rows in DataLoader(dataset, batch_size=7, shuffle=True):
        assert (maps.dtype, maps.shape[1:]) == (torch.float32, (8, 8))
        seen |= dict(zip(rows.tolist(), maps, strict=True))
    assert sorted(seen) == list(range(48))
    for row in (0, 30):
        assert np.array_equal(seen[row].numpy(), atlas.map(row, "legrad", "predicted"))
    values, row = pickle.loads(pickle.dumps(dataset))[5]  # as a worker of a loader gets it
    assert row == 5
    assert np.array_equal(values, seen[5].numpy())
    with pytest.raises(IndexError):
        dataset[48]


def test_samples_without_maps_are_no_items(atlas: Atlas, tmp_path: Path) -> None:
    """Of a shard that is not finished there is nothing either."""
    copy = Path(shutil.copytree(atlas.objects.url, tmp_path / "copy"))
    (copy / "commits" / "demo-validation-00.json").unlink()
    assert Atlas.open(str(copy)).dataset("legrad").rows.tolist() == list(range(24, 48))


def test_torch_and_matplotlib_are_loaded_by_none_of_it_until_something_is_drawn(atlas: Atlas) -> None:
    import subprocess
    import sys

    script = f"""
import sys
from pipeline.store import Atlas
atlas = Atlas.open({atlas.objects.url!r})
atlas._repr_html_(), atlas.dataset("legrad")[0], atlas.samples()
assert not {{"torch", "matplotlib", "xarray"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
