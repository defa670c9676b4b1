from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import seqserve_data.bundled
from seqserve_data import bundled_test, check_labels, check_trainable, read
from seqserve_data.bundled.convert import convert

FOLDER = Path(seqserve_data.bundled.__file__).parent


@pytest.mark.parametrize(
    ("name", "counts", "longest", "digest"),
    [
        (
            "japanese-vowels",
            [30] * 9,
            26,
            "5e63a64f7c0686feb8ae1b2f6357b4c577e8db71c3f3710e5282dc293324a4bf",
        ),
        (
            "japanese-vowels/test",
            [31, 35, 88, 44, 29, 24, 40, 50, 29],
            29,
            "685dfe872ebdb2815b3341566e80f7d5b8e02ab3680f45877b424674cad9421f",
        ),
    ],
    ids=["train", "test"],
)
def test_japanese_vowels_is_the_data_set_of_the_paper(
    name: str, counts: list[int], longest: int, digest: str
) -> None:
    dataset = read(name)
    assert dataset.name == name
    assert dataset.sequences.features == 12
    assert (dataset.sequences.lengths.min(), dataset.sequences.lengths.max()) == (7, longest)
    assert dataset.classes == tuple("123456789")
    assert dataset.labels is not None
    assert [Counter(dataset.labels)[label] for label in dataset.classes] == counts
    # Of the numbers and lengths in the archive's .ts file, made apart from this package.
    assert (
        hashlib.sha256(
            dataset.sequences.values.astype("<f4").tobytes()
            + dataset.sequences.lengths.astype("<i8").tobytes()
        ).hexdigest()
        == digest
    )


def test_japanese_vowels_can_be_learnt_and_tested_by() -> None:
    train = read("japanese-vowels")
    check_trainable(train)
    check_labels(read("japanese-vowels/test"), train.classes)


def test_the_vendored_files_are_small_and_say_whose_they_are() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.npz")) < 700_000
    attribution = (FOLDER / "JapaneseVowels.md").read_text(encoding="utf-8")
    for words in ("M. Kudo", "10.24432/C5NS47", "CC BY 4.0", "Changed: the form only"):
        assert words in attribution


def test_the_vendored_files_can_be_made_again(tmp_path: Path) -> None:
    header = "@univariate false\n@classLabel true 1 2\n@data\n"
    train, test = tmp_path / "train.ts", tmp_path / "test.ts"
    train.write_text(header + "0.1,0.2:1,2:1\n3:4:2\n")
    test.write_text(header + "5:6:2\n")
    convert(train, test, tmp_path)
    made = read(tmp_path / "japanese_vowels_train.npz")
    expected = np.array([[0.1, 1], [0.2, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(made.sequences.values, expected, strict=True)
    assert made.labels == ("1", "2")
    assert read(tmp_path / "japanese_vowels_test.npz").sequences.values.tolist() == [[5, 6]]


def test_random_is_noise_that_repeats() -> None:
    dataset = read("random")
    assert dataset.sequences.values.shape == (10_000, 5)
    assert dataset.sequences.lengths.tolist() == [10] * 1_000
    assert dataset.classes == ("0", "1")
    np.testing.assert_allclose(dataset.sequences.values.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(dataset.sequences.values.std(axis=0), 1, atol=0.05)
    assert dataset.labels is not None
    assert 400 < dataset.labels.count("0") < 600
    again = read("random")
    assert again.labels == dataset.labels
    assert again.sequences.values.tobytes() == dataset.sequences.values.tobytes()


def test_a_bundled_set_may_have_a_test_set() -> None:
    assert bundled_test("japanese-vowels") == "japanese-vowels/test"
    for source in ("japanese-vowels/test", "random", "train.csv"):
        assert bundled_test(source) is None
