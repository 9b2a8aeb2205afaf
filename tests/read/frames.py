"""Frames that a picture does not survive; decoders import this, so it needs little."""

import os
import signal
import time

from pipeline.image import Frame
from pipeline.image.geometry import Placement

FRAME = Frame(32, 32, "bicubic", "squash", 1.0, "center")


class Deadly(Frame):
    """No picture comes out of it, nor the process that tries."""

    def place(self, width: int, height: int) -> Placement:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().place(width, height)


class Endless(Frame):
    def place(self, width: int, height: int) -> Placement:
        time.sleep(600)
        return super().place(width, height)


class Hungry(Frame):
    def place(self, width: int, height: int) -> Placement:
        raise MemoryError


def of(kind: type[Frame]) -> Frame:
    return kind(**{name: getattr(FRAME, name) for name in FRAME.__dataclass_fields__})
