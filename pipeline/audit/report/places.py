"""Where in the picture a cell is, in words."""


def describe_cell(y: int, x: int, grid: tuple[int, int]) -> str:
    """A cell of a patch grid of this height and width, as ``lower left corner (row 7, column 0 of 8 × 8)``.

    Rows and columns count from 0, as in the tables. What is in the outer quarter is at an edge, or in a corner.
    """
    across = _side(x, grid[1], ("left", "right"))
    down = _side(y, grid[0], ("upper", "lower"))
    where = f"{down} {across} corner" if down and across else f"{down or across} edge" if down or across else "middle"
    return f"{where} (row {y}, column {x} of {grid[0]} × {grid[1]})"


def _side(cell: int, cells: int, ends: tuple[str, str]) -> str:
    """Which end a cell is near, empty of none."""
    at = (cell + 0.5) / cells
    return ends[0] if at < 0.25 else ends[1] if at > 0.75 else ""
