"""Coverage-guided fuzzing of what reads foreign bytes; needs atheris, and is not part of the tests.

    PYTHONPATH=.:tests python tests/corpus/fuzz_atheris.py decode -max_total_time=300
    PYTHONPATH=.:tests python tests/corpus/fuzz_atheris.py tar -max_total_time=300

It begins with the corpus. What it finds is left in the working directory as ``crash-…``, and belongs into the corpus.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline.read", "PIL", "tarfile"]):
    from corpus.pictures import PICTURES
    from corpus.promises import decoded, scanned
    from corpus.tars import TARS

LARGEST = 1 << 16


def main(target: str, *options: str) -> None:
    folder = Path(tempfile.mkdtemp())
    seeds = folder / "seeds"
    seeds.mkdir()
    for number, kind in enumerate((PICTURES if target == "decode" else TARS).values()):
        if len(data := kind.make()) <= LARGEST:
            (seeds / str(number)).write_bytes(data)

    def tar(data: bytes) -> None:
        path = folder / "a.tar"
        path.write_bytes(data)
        scanned(path)

    atheris.Setup([sys.argv[0], f"-max_len={LARGEST}", *options, str(seeds)], {"decode": decoded, "tar": tar}[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
