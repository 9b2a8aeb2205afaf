"""Frames that a picture does not survive; decoders import this, so it needs little."""

import os
import signal
import time

from pipeline.image import PreprocessConfig
from pipeline.image.transforms import CropTransform

FRAME = PreprocessConfig(32, 32, "bicubic", "squash", 1.0, "center")


class Deadly(PreprocessConfig):
    """No picture comes out of it, nor the process that tries."""

    def transform_for(self, width: int, height: int) -> CropTransform:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().transform_for(width, height)


class Endless(PreprocessConfig):
    def transform_for(self, width: int, height: int) -> CropTransform:
        time.sleep(600)
        return super().transform_for(width, height)


class Hungry(PreprocessConfig):
    def transform_for(self, width: int, height: int) -> CropTransform:
        raise MemoryError


def of(kind: type[PreprocessConfig]) -> PreprocessConfig:
    return kind(**{name: getattr(FRAME, name) for name in FRAME.__dataclass_fields__})
