"""Pictures decoded where the network is: plain JPEGs by torchvision, on a GPU by nvJPEG; all others in processes.

Which way a picture takes is decided by its headers and by nothing else, so that a shard that is done again gets the same
pixels. They differ from those of the processes by small amounts: the resize rounds once, where Pillow rounds
after each direction, and nvJPEG has an inverse cosine transform and an enlargement of colours of its own.
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

from pipeline.read import BaselineJpeg, CropTransform, DecodedImage, DecoderPool, PreprocessConfig, parse_baseline_jpeg
from schemas.errors import UsageError

_AT_ONCE = 64_000_000
"""Pixels that are decoded by one call, if there are several pictures in it: 192 MB."""
_RESIZES = ("bilinear", "bicubic")
"""That torch does with antialiasing as Pillow does."""
_REFUSED = "refused"


def check_frame(frame: PreprocessConfig) -> None:
    """Make sure that pictures can be brought to a frame on the device.

    Raises:
        UsageError: they cannot.
    """
    if frame.interpolation not in _RESIZES:
        raise UsageError(
            f"--decode gpu resizes by {' or '.join(_RESIZES)}, and this network wants {frame.interpolation}; "
            "use --decode processes"
        )


@dataclass(frozen=True)
class _Aside:
    """A picture that is decoded in a process, and why."""

    reason: str
    begun: Any

    def result(self) -> DecodedImage | str:
        result = self.begun.result()
        return replace(result, fallback=self.reason) if isinstance(result, DecodedImage) else result


class DeviceDecoders:
    """What ``batches`` decodes with, on a device.

    A GPU does it beside the network, on a stream of its own; only the host waits. What is decoded in processes for
    its headers is begun at once. A JPEG that the device refuses goes there as well.

    Args:
        device: of the network.
        processes: that decode all other pictures; 0 is a thread.
        lap: called with ``read`` before the device decodes, and with ``decode`` after.

    Raises:
        UsageError: the device decodes nothing.
    """

    def __init__(
        self, device: torch.device, processes: int = 0, lap: Callable[[str], None] = lambda stage: None
    ) -> None:
        self.device, self.lap = device, lap
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        try:
            self._probe()
        except (RuntimeError, ImportError, AttributeError) as error:
            raise UsageError(
                f"torchvision decodes no JPEG on this {device.type} ({_line(error)}); "
                "plan with --decode processes, or install another torchvision"
            ) from None
        self.others = DecoderPool(processes)

    def close(self) -> None:
        """Stop at once."""
        self.others.close()

    def submit(self, data: bytes, frame: PreprocessConfig) -> BaselineJpeg | _Aside:
        """See ``Decoding``."""
        found = parse_baseline_jpeg(data, frame)
        return _Aside(found, self.others.submit(data, frame)) if isinstance(found, str) else found

    def gather(
        self, pending: Sequence[BaselineJpeg | _Aside | None], frame: PreprocessConfig
    ) -> tuple[Tensor, list[DecodedImage | str | None]]:
        """See ``Decoding``; the pixels are a tensor on the device."""
        self.lap("read")
        try:
            with self._beside():
                pixels, results = self._gathered(pending, frame)
        except torch.OutOfMemoryError as error:
            _check_memory(error)
            raise
        if self._stream:
            self._stream.synchronize()  # or the memory of one picture might be given to another that is not yet done
            pixels.record_stream(torch.cuda.current_stream(self.device))
        self.lap("decode")
        return pixels, results

    def _gathered(
        self, pending: Sequence[BaselineJpeg | _Aside | None], frame: PreprocessConfig
    ) -> tuple[Tensor, list[DecodedImage | str | None]]:
        results: list[DecodedImage | str | None] = [None] * len(pending)
        pixels = torch.zeros(len(pending), 3, frame.height, frame.width, dtype=torch.uint8, device=self.device)
        aside = {place: each for place, each in enumerate(pending) if isinstance(each, _Aside)}
        for places in _groups(pending):
            group = [each for place in places if isinstance(each := pending[place], BaselineJpeg)]
            for place, each, image in zip(places, group, self._decoded(group), strict=True):
                if image is None or image.shape[1:] != (each.image.height, each.image.width):
                    aside[place] = _Aside(_REFUSED, self.others.submit(each.original, frame))
                else:
                    pixels[place] = framed(image, each.image.transform, frame)
                    results[place] = replace(each.image, pixels=pixels[place])
        for place, other in aside.items():
            result = results[place] = other.result()
            if isinstance(result, DecodedImage):
                pixels[place] = sent(torch.from_numpy(result.pixels), self.device)
        return pixels, results

    def _beside(self) -> AbstractContextManager[Any]:
        # torchvision has nvJPEG write as soon as it is called, into memory that the network on the current stream may
        # have left, but not yet be done with. Memory of another stream is not shared with it.
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def _decoded(self, group: Sequence[BaselineJpeg]) -> Iterator[Tensor | None]:
        """Pictures as they are stored, uint8 [3, H, W]; None where the device refuses one."""
        try:
            yield from _decode([each.data for each in group], group[0].grayscale, self.device)
        except RuntimeError as error:  # which of them it was is not said
            _check_memory(error)
            for each in group:
                yield self._alone(each)

    def _alone(self, each: BaselineJpeg) -> Tensor | None:
        try:
            (image,) = _decode([each.data], each.grayscale, self.device)
        except RuntimeError as error:
            _check_memory(error)
            try:
                self._probe()
            except RuntimeError as failure:
                raise OSError(
                    errno.EIO, f"the {self.device.type} decodes nothing any more: {_line(failure)}"
                ) from error
            return None
        return image

    def _probe(self) -> None:
        """Make sure that it is a picture that the device refuses, and not every one."""
        for grey in (False, True):
            with self._beside():
                _decode([_easy(grey)], grey, self.device)


def _groups(pending: Sequence[BaselineJpeg | _Aside | None]) -> Iterator[list[int]]:
    """Places of plain pictures that go to the device together: grey ones apart, and no more pixels than it may hold."""
    for grey in (False, True):
        group: list[int] = []
        room = _AT_ONCE
        for place, each in enumerate(pending):
            if not isinstance(each, BaselineJpeg) or each.grayscale != grey:
                continue
            size = each.image.width * each.image.height
            if group and size > room:
                yield group
                group, room = [], _AT_ONCE
            group.append(place)
            room -= size
        if group:
            yield group


def _decode(jpegs: Sequence[bytes], grey: bool, device: torch.device) -> list[Tensor]:
    """JPEGs to uint8 [3, H, W], RGB, on the device.

    Raises:
        RuntimeError: the device refuses one of them.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # a second, and few need it

    encoded = [torch.tensor(np.frombuffer(data, np.uint8)) for data in jpegs]
    with warnings.catch_warnings():
        # torchvision 0.29 announces that TorchCodec will have it instead; see docs/decisions.
        warnings.simplefilter("ignore", DeprecationWarning)
        images = decode_jpeg(encoded, ImageReadMode.GRAY if grey else ImageReadMode.RGB, device)
    return [image.expand(3, -1, -1) for image in images]


def framed(image: Tensor, placement: CropTransform, frame: PreprocessConfig) -> Tensor:
    """A decoded picture, uint8 [3, H, W], resized and cut as ``decode`` does it."""
    width, height = placement.size
    if image.shape[1:] != (height, width):
        resized = F.interpolate(
            image[None].float(), (height, width), mode=frame.interpolation, antialias=True, align_corners=False
        )
        image = resized[0].round_().clamp_(0, 255).to(torch.uint8)
    return image[:, placement.top : placement.top + frame.height, placement.left : placement.left + frame.width]


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device, or on its way there: what is asked of the device next has it, and the host goes on."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _check_memory(error: RuntimeError) -> None:
    """Raise what another attempt may not meet: which way a picture takes must not depend on what else is in memory."""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        raise OSError(errno.ENOMEM, "there is not enough memory on the device to decode a picture") from error


def _easy(grey: bool) -> bytes:
    file = io.BytesIO()
    Image.new("L" if grey else "RGB", (16, 16)).save(file, "JPEG")
    return file.getvalue()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
