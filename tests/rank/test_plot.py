"""The picture of a ranking has every row, and equal rankings have equal pictures."""

import io

from PIL import Image

from pipeline.rank.plot import plot_ranking
from schemas.rank import LocalizationScore, RankedMethod, RankRecord, SignalCheck, SignalScore, Verdict

SCORE = SignalScore(mean=0.5, low=0.4, high=0.6, images=9, advantage=0.1, advantage_low=0.0, advantage_high=0.2)
BOXES = LocalizationScore(score="maxboxacc_v2", value=60, low=None, high=None)
VERDICTS: tuple[Verdict | None, ...] = ("stands", "uncertain", "fails", None)


def row(name: str, verdict: Verdict | None, localization: LocalizationScore | None) -> RankedMethod:
    return RankedMethod(
        method=name,
        kind="method" if verdict else "control",
        verdict=verdict,
        reason="",
        rank=0.5,
        rank_low=0.4,
        rank_high=0.6,
        degenerate=0,
        isolated=0,
        same_for_classes=None,
        signals={"crop": SCORE},
        localization=localization,
    )


def draw(rows: int, valid: bool = True, localization: LocalizationScore | None = None) -> bytes:
    record = RankRecord(
        run="sha256:0",
        target="label",
        images=9,
        seed=0,
        signals={"crop": SignalCheck(valid=valid, reason=""), "removal": SignalCheck(valid=False, reason="")},
        methods=tuple(row(f"$m_{number}", VERDICTS[number % 4], localization) for number in range(rows)),
        truth=("boxes.json", "sha256:1") if localization else None,
    )
    return plot_ranking(record)


def size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def test_rows_and_panels_take_room_and_bytes_are_repeated() -> None:
    short = draw(4)
    assert draw(4) == short
    assert size(draw(12))[1] > size(short)[1]
    assert size(draw(4, localization=BOXES))[0] > size(short)[0]
    assert size(draw(4, valid=False))[0] > size(short)[0], "all signals, if none is valid"
