"""Rich's console with all text escaped, for tables, progress bars and live displays."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from schemas.text import escape_control


class SafeConsole(Console):
    """Console whose text holds no control characters, whatever it is asked to print; its own control codes stay.

    It escapes after the layout, so text from data is better escaped before, lest a table is out of line.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the escaped segments of something that is printed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_escape_lines(segment.text), segment.style)


def _escape_lines(text: str) -> str:
    """Escape a text but for its newlines, which are those of the layout."""
    return text if text.isprintable() else "\n".join(map(escape_control, text.split("\n")))
