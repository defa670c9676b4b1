"""Makes the vendored files of JapaneseVowels from the archive's .ts files.

python -m seqserve_data.bundled.convert JapaneseVowels_TRAIN.ts JapaneseVowels_TEST.ts
"""

from __future__ import annotations

import sys
from pathlib import Path

from seqserve_data import npz, ts

_FOLDER = Path(__file__).parent


def convert(train: Path, test: Path, folder: Path = _FOLDER) -> None:
    """Writes both parts into `folder` in the .npz form."""
    npz.write(ts.read(train), folder / "japanese_vowels_train.npz")
    npz.write(ts.read(test), folder / "japanese_vowels_test.npz")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
