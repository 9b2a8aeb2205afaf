"""``prepare`` and ``overlay``: bit-identical to a run."""

import io
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support import encode, jpeg, small_vit
from torch import nn

from pipeline.explain import explain, overlay, prepare
from pipeline.explain.load import describe_loaded
from pipeline.read import PreprocessConfig, decode_image
from schemas.errors import UnsupportedModel, UsageError

_NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 4), np.uint8))
_SIXTEEN = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (30, 40)).astype(np.uint16))
_EXIF = Image.Exif()
PICTURES = {
    **{mode: encode(_NOISE.convert(mode), "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")},
    "CMYK": encode(_NOISE.convert("CMYK"), "JPEG"),
    "sixteen bits": encode(_SIXTEEN, "PNG"),
    "wide": jpeg(4, (300, 20)),
}
for turn in range(1, 9):
    _EXIF[0x0112] = turn
    PICTURES[f"orientation {turn}"] = jpeg(turn, exif=_EXIF.tobytes())


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return timm.create_model("test_vit", num_classes=10).eval()


def as_a_run(model: nn.Module, data: bytes) -> torch.Tensor:
    """The input of the network as a worker makes it from the bytes of a shard."""
    record = describe_loaded("test_vit", model).record
    pixels = torch.from_numpy(decode_image(data, PreprocessConfig.for_model(record, "squash")).pixels)
    mean, std = (torch.tensor(values)[:, None, None] for values in (record.mean, record.std))
    return (pixels.float() / 255 - mean) / std


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_becomes_what_a_run_makes_of_it_to_the_bit(model: nn.Module, kind: str) -> None:
    data = PICTURES[kind]
    prepared = prepare(model, Image.open(io.BytesIO(data)))
    assert torch.equal(prepared, as_a_run(model, data)[None])


def test_several_pictures_of_several_sizes_are_a_batch(model: nn.Module) -> None:
    several = [Image.open(io.BytesIO(PICTURES[kind])) for kind in ("wide", "RGB", "orientation 6")]
    batch = prepare(model, several)
    assert batch.shape == (3, 3, 160, 160)
    assert torch.equal(batch[1:2], prepare(model, several[1]))


def test_it_takes_the_precision_and_the_size_of_the_model() -> None:
    model = small_vit(img_size=(48, 32))
    images = prepare(model, _NOISE)
    assert (images.dtype, images.shape) == (torch.float64, (1, 3, 48, 32))
    assert explain(model, images, torch.tensor([[1, 2]]), ["attention"])["attention"].shape == (1, 2, 6, 4)


def test_a_map_as_explain_gives_it_lies_over_the_picture(model: nn.Module) -> None:
    images = prepare(model, _NOISE)
    maps = explain(model, images, model(images).argmax(1, keepdim=True), ["legrad"])
    tensor, array = (overlay(_NOISE, maps["legrad"][0, 0]), overlay(_NOISE, maps["legrad"][0, 0].numpy()))
    assert tensor.size == _NOISE.size
    assert tensor == array
    with pytest.raises(UsageError, match="pass one, such as"):
        overlay(_NOISE, maps["legrad"])


def test_what_cannot_be_prepared_is_refused(model: nn.Module) -> None:
    with pytest.raises(UsageError, match="no images"):
        prepare(model, [])
    with pytest.raises(UnsupportedModel):
        prepare(timm.create_model("resnet18", num_classes=0), _NOISE)


def test_pictures_need_nothing_that_reads_tars_or_atlases() -> None:
    script = """
import sys
sys.modules.update(dict.fromkeys(("ray", "zarr", "webdataset", "pyarrow", "xarray", "fsspec")))
import timm
from PIL import Image
from pipeline.explain import explain, overlay, prepare
model, image = timm.create_model("test_vit").eval(), Image.new("RGB", (40, 30))
images = prepare(model, image)
overlay(image, explain(model, images, model(images).argmax(1, keepdim=True), ["legrad"])["legrad"][0, 0])
"""
    subprocess.run([sys.executable, "-c", script], check=True)
