"""Decoding on the device of the network: baseline JPEGs by torchvision (nvJPEG on a GPU), other images in processes.

The headers of an image alone decide where it is decoded, so that a shard that is processed again gets the same pixels.
Pixels differ from those of Pillow by small amounts: the resize rounds once, where Pillow rounds after each direction,
and nvJPEG has its own inverse cosine transform and chroma upsampling.
"""

import errno
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.read import (
    BaselineJpeg,
    CropTransform,
    DecodedImage,
    DecoderPool,
    PreprocessConfig,
    parse_baseline_jpeg,
)
from schemas.errors import UsageError

_MAX_BATCH_PIXELS = 64_000_000
"""Pixels that one call decodes, unless it has a single image: 192 MB."""
_INTERPOLATIONS = ("bilinear", "bicubic")
"""Those that torch does with antialiasing as Pillow does."""
_REFUSED = "refused"


def check_interpolation(config: PreprocessConfig) -> None:
    """Make sure that the device can resize images.

    Raises:
        UsageError: it cannot.
    """
    if config.interpolation not in _INTERPOLATIONS:
        raise UsageError(
            f"--decode gpu resizes by {' or '.join(_INTERPOLATIONS)}, and this network needs {config.interpolation}; "
            "use --decode processes"
        )


@dataclass(frozen=True)
class _HostImage:
    """An image that is decoded in a process, and the reason."""

    reason: str
    future: Any

    def result(self) -> DecodedImage | str:
        result = self.future.result()
        return replace(result, fallback=self.reason) if isinstance(result, DecodedImage) else result


class DeviceDecoder:
    """``ImageDecoder`` on the device of the network.

    A GPU decodes beside the network on its own stream; only the host waits. Images whose headers need Pillow are
    decoded in processes from the start. A JPEG that the device refuses is decoded there as well.

    Args:
        device: of the network.
        processes: that decode all other images; 0 is a thread.
        on_stage_end: called with ``read`` before the device decodes, and with ``decode`` after.

    Raises:
        UsageError: the device cannot decode.
    """

    def __init__(
        self, device: torch.device, processes: int = 0, on_stage_end: Callable[[str], None] = lambda stage: None
    ) -> None:
        self.device, self.on_stage_end = device, on_stage_end
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        try:
            self._probe()
        except (RuntimeError, ImportError, AttributeError) as error:
            raise UsageError(
                f"torchvision decodes no JPEG on this {device.type} ({_first_line(error)}); "
                "plan with --decode processes, or install another torchvision"
            ) from None
        self.host_decoder = DecoderPool(processes)

    def close(self) -> None:
        """Stop at once."""
        self.host_decoder.close()

    def submit(self, data: bytes, config: PreprocessConfig) -> BaselineJpeg | _HostImage:
        """Start to decode an image; see ``ImageDecoder``."""
        parsed = parse_baseline_jpeg(data, config)
        return _HostImage(parsed, self.host_decoder.submit(data, config)) if isinstance(parsed, str) else parsed

    def gather(
        self, pending: Sequence[BaselineJpeg | _HostImage | None], config: PreprocessConfig
    ) -> tuple[Tensor, list[DecodedImage | str | None]]:
        """Decode or wait for the images of a batch; see ``ImageDecoder``. The pixels are a tensor on the device."""
        self.on_stage_end("read")
        try:
            with self._on_own_stream():
                pixels, results = self._decode_batch(pending, config)
        except torch.OutOfMemoryError as error:
            _raise_if_out_of_memory(error)
            raise
        if self._stream:
            self._stream.synchronize()  # else memory of an image might be reused before the stream is done with it
            pixels.record_stream(torch.cuda.current_stream(self.device))
        self.on_stage_end("decode")
        return pixels, results

    def _decode_batch(
        self, pending: Sequence[BaselineJpeg | _HostImage | None], config: PreprocessConfig
    ) -> tuple[Tensor, list[DecodedImage | str | None]]:
        results: list[DecodedImage | str | None] = [None] * len(pending)
        pixels = torch.zeros(len(pending), 3, config.height, config.width, dtype=torch.uint8, device=self.device)
        on_host = {index: item for index, item in enumerate(pending) if isinstance(item, _HostImage)}
        for indices in _group_jpegs(pending):
            jpegs = [item for index in indices if isinstance(item := pending[index], BaselineJpeg)]
            for index, jpeg, decoded in zip(indices, jpegs, self._decode_group(jpegs), strict=True):
                if decoded is None or decoded.shape[1:] != (jpeg.image.height, jpeg.image.width):
                    on_host[index] = _HostImage(_REFUSED, self.host_decoder.submit(jpeg.original, config))
                else:
                    pixels[index] = resize_crop_tensor(decoded, jpeg.image.transform, config)
                    results[index] = replace(jpeg.image, pixels=pixels[index])
        for index, item in on_host.items():
            result = results[index] = item.result()
            if isinstance(result, DecodedImage):
                pixels[index] = to_device(torch.from_numpy(result.pixels), self.device)
        return pixels, results

    def _on_own_stream(self) -> AbstractContextManager[Any]:
        # torchvision lets nvJPEG write at once, into memory that the network on the current stream may have freed but
        # still uses. Memory of another stream is not shared with it.
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def _decode_group(self, jpegs: Sequence[BaselineJpeg]) -> Iterator[Tensor | None]:
        """Yield images as stored, uint8 [3, H, W]; None if the device refuses one."""
        try:
            yield from _decode_jpegs([jpeg.data for jpeg in jpegs], jpegs[0].grayscale, self.device)
        except RuntimeError as error:  # does not tell which of them
            _raise_if_out_of_memory(error)
            for jpeg in jpegs:
                yield self._decode_alone(jpeg)

    def _decode_alone(self, jpeg: BaselineJpeg) -> Tensor | None:
        try:
            (decoded,) = _decode_jpegs([jpeg.data], jpeg.grayscale, self.device)
        except RuntimeError as error:
            _raise_if_out_of_memory(error)
            try:
                self._probe()
            except RuntimeError as failure:
                raise OSError(
                    errno.EIO, f"the {self.device.type} can no longer decode: {_first_line(failure)}"
                ) from error
            return None
        return decoded

    def _probe(self) -> None:
        """Decode valid test images, to tell a refused image from a device that cannot decode."""
        for grayscale in (False, True):
            with self._on_own_stream():
                _decode_jpegs([_make_probe_jpeg(grayscale)], grayscale, self.device)


def _group_jpegs(pending: Sequence[BaselineJpeg | _HostImage | None]) -> Iterator[list[int]]:
    """Yield indices of JPEGs for one call each: grayscale ones apart, and no more pixels than the limit."""
    for grayscale in (False, True):
        group: list[int] = []
        remaining = _MAX_BATCH_PIXELS
        for index, item in enumerate(pending):
            if not isinstance(item, BaselineJpeg) or item.grayscale != grayscale:
                continue
            size = item.image.width * item.image.height
            if group and size > remaining:
                yield group
                group, remaining = [], _MAX_BATCH_PIXELS
            group.append(index)
            remaining -= size
        if group:
            yield group


def _decode_jpegs(jpegs: Sequence[bytes], grayscale: bool, device: torch.device) -> list[Tensor]:
    """Decode JPEGs to uint8 [3, H, W], RGB, on the device.

    Raises:
        RuntimeError: the device refuses one of them.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # takes a second to import

    encoded = [torch.tensor(np.frombuffer(data, np.uint8)) for data in jpegs]
    with warnings.catch_warnings():
        # torchvision 0.29 announces its move to TorchCodec; see docs/decisions.
        warnings.simplefilter("ignore", DeprecationWarning)
        images = decode_jpeg(encoded, ImageReadMode.GRAY if grayscale else ImageReadMode.RGB, device)
    return [image.expand(3, -1, -1) for image in images]


def resize_crop_tensor(image: Tensor, transform: CropTransform, config: PreprocessConfig) -> Tensor:
    """Resize and crop a decoded image as ``resize_crop`` does.

    Args:
        image: uint8 [3, H, W].
        transform: of this image.
        config: input size and interpolation.

    Returns:
        uint8 [3, H, W] of the input size.
    """
    width, height = transform.size
    if image.shape[1:] != (height, width):
        resized = F.interpolate(
            image[None].float(), (height, width), mode=config.interpolation, antialias=True, align_corners=False
        )
        image = resized[0].round_().clamp_(0, 255).to(torch.uint8)
    bottom, right = transform.top + config.height, transform.left + config.width
    return image[:, transform.top : bottom, transform.left : right]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to the device without waiting; later work on the device sees the copy.

    Args:
        values: any tensor.
        device: to copy to.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _raise_if_out_of_memory(error: RuntimeError) -> None:
    """Raise ``OSError``, so that the shard is retried: where an image is decoded must not depend on free memory."""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        raise OSError(errno.ENOMEM, "there is not enough memory on the device to decode an image") from error


def _make_probe_jpeg(grayscale: bool) -> bytes:
    file = io.BytesIO()
    Image.new("L" if grayscale else "RGB", (16, 16)).save(file, "JPEG")
    return file.getvalue()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
