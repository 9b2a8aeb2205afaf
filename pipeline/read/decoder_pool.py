"""Image decoding beside the network: in one thread, or in processes that may crash."""

import errno
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.image import PreprocessConfig
from pipeline.read.decode import DecodedImage, decode_image
from pipeline.read.strip_metadata import UndecodableImageError
from pipeline.utils.process_pool import ProcessPool

_TIMEOUT = 120.0
"""Seconds after which a process counts as hung. Images that ``decode_image`` accepts take a tenth of it."""
_DECODE_ATTEMPTS = 3
_POOL_ERRORS = (BrokenProcessPool, CancelledError)
"""Results of the images of a process that dies."""
_PROBE_IMAGE = b"P5 1 1 255\n\0"
_PROBE_CONFIG = PreprocessConfig(1, 1, "nearest", "squash", 1.0, "center")


class ImageDecoder(Protocol):
    """Decoder of the images of ``iter_batches``, on the host or on the device of the network."""

    def submit(self, data: bytes, config: PreprocessConfig) -> Any:
        """Start to decode an image.

        Args:
            data: encoded.
            config: of the resize and crop.

        Returns:
            A value for ``gather``.
        """

    def gather(self, pending: Sequence[Any], config: PreprocessConfig) -> tuple[Any, list[DecodedImage | str | None]]:
        """Wait for the images of a batch.

        Args:
            pending: results of ``submit``; None where a sample has no image.
            config: of the resize and crop.

        Returns:
            uint8 [B, 3, H, W], black where there is no image; and for each the image, the reason why it cannot be
            decoded, or None.

        Raises:
            OSError: there is not enough memory, or the decoder itself fails.
        """


class DecoderPool:
    """Decoder of images in processes of its own, in the order of ``submit``.

    An image whose process dies is decoded again, so that one that kills its decoder is told apart from its neighbors.
    If one hangs, all processes are replaced, and all pending images are decoded again.

    Args:
        processes: 0 is one thread, for a caller that is itself one of many processes.
    """

    def __init__(self, processes: int = 0) -> None:
        self.processes = processes
        self.pool = self._make_pool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, data: bytes, config: PreprocessConfig) -> "DecodeFuture":
        """Start to decode an image; see ``ImageDecoder``."""
        return DecodeFuture(self, data, config)

    def gather(
        self, pending: "Sequence[DecodeFuture | None]", config: PreprocessConfig
    ) -> tuple[NDArray[np.uint8], list[DecodedImage | str | None]]:
        """Wait for the images of a batch; see ``ImageDecoder``. The pixels are a NumPy array."""
        pixels = np.zeros((len(pending), 3, config.height, config.width), np.uint8)
        results = [future.result() if future else None for future in pending]
        for index, result in enumerate(results):
            if isinstance(result, DecodedImage):
                pixels[index] = result.pixels
        return pixels, results

    def restart(self) -> None:
        """Kill all processes and start new ones."""
        self.close()
        self.pool = self._make_pool()

    def probe(self) -> None:
        """Make sure that images crash the processes, not the machine.

        Raises:
            OSError: they crash on a valid test image as well.
        """
        self.restart()
        try:
            self.start_decode(_PROBE_IMAGE, _PROBE_CONFIG).result(_TIMEOUT)
        except (*_POOL_ERRORS, TimeoutError) as error:
            raise OSError(
                errno.EIO,
                f"decoder processes crash even on a valid test image ({type(error).__name__}); "
                "check memory and the Pillow installation",
            ) from error

    def start_decode(self, data: bytes, config: PreprocessConfig) -> "Future[DecodedImage | str]":
        """Give an image to a free process.

        Args:
            data: encoded.
            config: of the resize and crop.
        """
        return self.pool.submit(_decode, data, config)

    def close(self) -> None:
        """Stop at once."""
        if isinstance(self.pool, ProcessPool):
            self.pool.stop()
        else:
            self.pool.shutdown(cancel_futures=True)

    def _make_pool(self) -> Executor:
        return ProcessPool(self.processes, __name__) if self.processes else _ThreadExecutor()


class _ThreadExecutor(Executor):
    """One daemon thread, so that the exit of the process does not wait for its last image."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        while cancel_futures and not self._calls.empty():
            if call := self._calls.get():
                call[0].cancel()
        self._calls.put(None)

    def _work(self) -> None:
        while call := self._calls.get():
            future, function = call
            try:
                future.set_result(function())
            except BaseException as error:  # raised again where the result is awaited
                future.set_exception(error)


class DecodeFuture:
    """An image that is being decoded."""

    def __init__(self, decoders: DecoderPool, data: bytes, config: PreprocessConfig) -> None:
        self._decoders, self._data, self._config = decoders, data, config
        self._start()

    def _start(self) -> None:
        self._future = self._decoders.start_decode(self._data, self._config)
        self._pool = self._decoders.pool

    def result(self) -> DecodedImage | str:
        """Return the image, or the reason why it cannot be decoded.

        Raises:
            OSError: there is not enough memory, no process can be started, or every one crashes, whatever it is given.
        """
        for _ in range(_DECODE_ATTEMPTS):
            try:
                return self._future.result(_TIMEOUT if self._decoders.processes else None)
            except MemoryError:
                raise OSError(errno.ENOMEM, "there is not enough memory to decode an image") from None
            except TimeoutError:
                reason = f"its decoder did not finish within {_TIMEOUT:.0f} s"
                if self._pool is self._decoders.pool:
                    self._decoders.restart()
            except _POOL_ERRORS:
                reason = "its decoder died"
            self._start()
        self._decoders.probe()
        return f"{reason}, {_DECODE_ATTEMPTS} times"


def _decode(data: bytes, config: PreprocessConfig) -> DecodedImage | str:
    """Return the image or the reason why it cannot be decoded, as a process can return it without raising."""
    try:
        return decode_image(data, config)
    except UndecodableImageError as error:
        return str(error)
