"""Printed tables: every number is that of the rows, the best are bold, text from data is text, and TeX is valid."""

import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from jobs.score_output import show_scores
from pipeline.score.printed_scores import print_classes, print_localization
from pipeline.utils.latex import escape_latex
from schemas.scores import CLASS_METRICS, SCORES, ScoringSpec, TuningSplitRecord

NETWORK = "vit_tiny 0123456789ab"


def row(method: str, kind: str = "method", network: str = NETWORK, **scores: float) -> dict[str, Any]:
    """A row with these scores alone, each with an interval of 1 around it."""
    values = dict.fromkeys(SCORES) | scores
    intervals = {name: None if value is None else [value - 1, value + 1] for name, value in values.items()}
    counts = {
        "images": 1234,
        "test_images": 1224,
        "tuning_images": 10,
        "without_maps": 2,
        "without_object": 0,
        "masks": 0,
    }
    names = {"source": "a.atlas", "method": method, "kind": kind, "network": network, "target": "label"}
    return names | counts | values | {"interval": intervals}


def about(**changes: Any) -> ScoringSpec:
    tuning = TuningSplitRecord(keys="sha256:0")
    spec = {"run": "sha256:0", "truth": "sha256:0", "name": "val_boxes", "target": "label", "subset": False}
    return ScoringSpec(**(spec | {"tuning": tuning} | changes))


ROWS = [
    row("legrad", top1_cls=71.26, maxboxacc=63.06, gt_known=60.0),
    row("cp_lrp", top1_cls=71.26, maxboxacc=41.04, gt_known=60.04),
    row("center", "control", top1_cls=71.26, maxboxacc=99.0),
]
LATEX = r"""% needs \usepackage{booktabs}
\begin{tabular}{@{}lrrr@{}}
\toprule
Method & Top-1 cls. & GT-known & MaxBoxAcc \\
\midrule
legrad & 71.3$_{70.3}^{72.3}$ & \textbf{60.0}$_{59.0}^{61.0}$ & \textbf{63.1}$_{62.1}^{64.1}$ \\
cp\_lrp & 71.3$_{70.3}^{72.3}$ & \textbf{60.0}$_{59.0}^{61.0}$ & 41.0$_{40.0}^{42.0}$ \\
\midrule
center$^{*}$ & 71.3$_{70.3}^{72.3}$ & -- & 99.0$_{98.0}^{100.0}$ \\
\bottomrule
\end{tabular}
\par\smallskip
"""
MARKDOWN = r"""| Method | Top-1 cls. | GT-known | MaxBoxAcc |
| --- | --: | --: | --: |
| legrad | 71.3 (70.3–72.3) | **60.0** (59.0–61.0) | **63.1** (62.1–64.1) |
| cp\_lrp | 71.3 (70.3–72.3) | **60.0** (59.0–61.0) | 41.0 (40.0–42.0) |
| center \* | 71.3 (70.3–72.3) | – | 99.0 (98.0–100.0) |
"""


def test_a_table_in_both_languages() -> None:
    latex, markdown = (data.decode() for data in print_localization(ROWS, about()))
    assert latex.startswith(LATEX)
    assert markdown.startswith(MARKDOWN)
    for note in (
        "Maps of the label, network vit\\_tiny 0123456789ab.",
        "1,234 images of val\\_boxes; 2 without a map: not scored.",
        "thresholds in steps of 0.001",
        "threshold chosen on 10 images chosen by the hash of their keys, measured on the other 1,224",
    ):
        assert note in markdown
        assert note in latex
    assert "Kinds of errors" not in markdown
    assert "mIoU" not in markdown


def test_errors_have_a_table_of_their_own_in_which_the_lowest_is_best() -> None:
    errors = {"error_classification": 20.0, "error_part": 10.0, "error_more": 0.0, "error_other": 9.0}
    more = errors | {"error_part": 8.0, "error_more": 2.0}
    rows = [row("a", top1_loc=61.0, error_multi_instance=0.0, **errors), row("b", top1_loc=61.0, **more)]
    markdown = print_localization(rows, about())[1].decode()
    _, table, _ = markdown.split("\n\n")
    assert table.splitlines()[0] == "| Method | Correct | Classification | Multi-instance | Part | More | Other |"
    bold = [re.findall(r"\*\*([\d.]+)\*\*", line) for line in table.splitlines()[2:]]
    assert bold == [["61.0", "0.0", "0.0", "9.0"], ["61.0", "8.0", "9.0"]]
    assert "more than 0.3 of several objects" in markdown


def test_sources_are_named_and_their_networks_compared_where_there_are_several() -> None:
    other = {"source": "b.atlas", "target": "predicted"}
    box = row("whole image", "control", maxboxacc=1.0) | {"source": None, "network": None, "target": None}
    rows = [row("a", top1_cls=71.0), row("a", network="vit_base 00", top1_cls=80.0) | other, box]
    latex, markdown = (data.decode() for data in print_localization(rows, about()))
    assert "| Source | Method | Top-1 cls. | MaxBoxAcc |" in markdown
    assert "| b.atlas | a | **80.0** (79.0–81.0) | – |" in markdown
    assert "| a.atlas | a | 71.0 (70.0–72.0) | – |" in markdown
    assert "|  | whole image \\* | – | 1.0 (0.0–2.0) |" in markdown
    files = row("maps", maxboxacc=2.0) | {"source": "maps", "network": None, "target": None}
    markdown = print_localization([rows[0], files, box], about())[1].decode()
    assert "| a.atlas | a | 71.0 (70.0–72.0) | – |" in markdown  # the one network that is known has no other beside it
    assert "a.atlas: maps of the label, network vit\\_tiny 0123456789ab; b.atlas: maps of the prediction" in latex
    unknown = [row("a", top1_cls=71.0) | {"network": None, "target": None}]
    assert "- Maps, masks or boxes, network unknown." in print_localization(unknown, about())[1].decode()


def test_images_without_an_object_are_counted_where_they_count() -> None:
    boxes = [row("a", maxboxacc=1.0) | {"without_object": 3}]
    assert "; 3 without an object: not scored." in print_localization(boxes, about())[1].decode()
    masks = [boxes[0] | {"masks": 1234}]
    assert "; 3 without an object: only PxAP counts them." in print_localization(masks, about())[1].decode()


def test_images_with_boxes_among_images_with_masks_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a", maxboxacc=1.0, threshold=0.5) | {"masks": 1000}, row("b", maxboxacc=1.0, threshold=0.5)]
    text = "; 2 without a map: not scored; 234 with an object without a mask: no scores of pixels."
    assert text in print_localization(rows, about())[1].decode()
    show_scores(["a.atlas"], "out", [rows[0] | {"degenerate": 0}], False)
    assert "images with an object without a mask: 234 of 1234; pixels count of the others" in capsys.readouterr().out
    assert "without a mask" not in print_localization([rows[1], rows[0] | {"masks": 1234}], about())[1].decode()


def test_where_thresholds_come_from_is_said() -> None:
    named = TuningSplitRecord(truth="sha256:1", keys="sha256:0", name="val2")
    assert "chosen on 10 images of val2" in print_localization(ROWS, about(tuning=named))[1].decode()
    assert "steps of 0.01." in print_localization(ROWS, about(grid_step=0.01))[1].decode()
    without = [row("a", maxboxacc=3.0) | {"tuning_images": 0}]
    assert "there is no tuning split" in print_localization(without, about())[1].decode()


def test_open_vocabulary_has_a_table() -> None:
    values = dict.fromkeys(CLASS_METRICS) | {"miou": 40.0, "miou_oracle": 45.0}
    interval = {name: value and [value, value] for name, value in values.items()}
    names = {
        "source": "a",
        "method": "legrad",
        "kind": "method",
        "network": NETWORK,
        "target": "top",
        "points_outside": None,
    }
    one = names | {"images": 9, "classes": 3, "tuning_images": 4, "interval": interval} | values
    latex, markdown = (data.decode() for data in print_classes([one], about(target="top")))
    assert "| legrad | **40.0** (40.0–40.0) | **45.0** (45.0–45.0) |" in markdown
    assert "9 images of val\\_boxes, 3 classes" in latex
    assert "- Maps of several classes, network" in markdown


HOSTILE = r"a_b%c&d#e$f{g}h\input{x}^~<b>|i" + '"j\n*k* `l` [m](n) — é Ł ï 中 \u202e é--'


def test_text_from_data_is_text() -> None:
    rows = [row(HOSTILE, network=HOSTILE, maxboxacc=1.0), row("b", maxboxacc=2.0)]
    latex, markdown = (data.decode() for data in print_localization(rows, about(name=HOSTILE)))
    check_latex(latex)
    table = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    assert table.count("<tr>") == 3
    assert "<b>" not in table
    assert "<em>" not in table
    assert "<a " not in table
    assert "U+4E2D" in latex
    assert r"\'{e} \L{} \"{\i}" in latex


@pytest.mark.parametrize("text", [HOSTILE, "".join(map(chr, range(32, 0x250))), "ﬁ ½ Ω"])
def test_any_text_is_ascii_in_latex(text: str) -> None:
    escaped = escape_latex(text)
    assert escaped.isascii()
    check_text(escaped)


COMMANDS = {
    "begin", "end", "toprule", "midrule", "bottomrule", "textbf", "par", "medskip", "smallskip", "footnotesize",
    "textbackslash", "textasciicircum", "textasciitilde", "ldots", "times", "geq", "leq", "cap",
    "ss", "ae", "AE", "oe", "OE", "o", "O", "l", "L", "i", "j", "u", "r", "H", "v", "c",
}  # fmt: skip
"""Of LaTeX and booktabs."""


def test_hyphens_are_no_dashes_and_a_row_has_no_arguments() -> None:
    assert escape_latex("a-b---c – [d] *") == "a-b-{}-{}-c -- {[}d] {*}"


def check_text(text: str) -> None:
    """Refuse unknown commands, special characters that are not escaped, and braces and math that do not match."""
    tokens = re.findall(r"\\[A-Za-z]+|\\.|.", text, re.DOTALL)
    depth, in_math = 0, False
    for token in tokens:
        if re.fullmatch(r"\\[A-Za-z]+", token):
            assert token[1:] in COMMANDS, token
        elif token.startswith("\\"):
            assert token[1] in "#$%&_{}\\`'^~=.\"", token
        elif token in "{}":
            depth += 1 if token == "{" else -1
            assert depth >= 0
        elif token == "$":
            in_math = not in_math
        else:
            assert token not in "#%~\n" or (token == "\n" and not in_math), token
            assert token not in "_^" or in_math, text
    assert depth == 0
    assert not in_math


def check_latex(latex: str) -> None:
    """Read the tables of a file: rows of as many cells as there are columns."""
    first, _, rest = latex.partition("\n")
    assert first == r"% needs \usepackage{booktabs}"
    for columns, body in re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}\n(.*?)\\end\{tabular\}", rest, re.DOTALL):
        for line in body.splitlines():
            if line not in (r"\toprule", r"\midrule", r"\bottomrule"):
                assert line.endswith(r" \\")
                assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    check_text(re.sub(r"(?<!\\)&", "", rest))


def test_tables_are_valid_latex() -> None:
    full = [row("a", **dict.fromkeys(SCORES, 12.3)), row("b", "control", **dict.fromkeys(SCORES, 4.5))]
    check_latex(print_localization(full, about())[0].decode())
