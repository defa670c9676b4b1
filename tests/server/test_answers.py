from __future__ import annotations

import numpy as np

from seqserve_server.answers import answer

LABELS = ("a", "b", "c")
PROBABILITIES = np.array([[0.25, 0.5, 0.25], [0.4, 0.2, 0.4]], np.float32)


def test_of_equally_probable_classes_the_one_listed_first_comes_first() -> None:
    ranked = answer(PROBABILITIES, PROBABILITIES, LABELS, top_k=3)

    assert ranked.labels == ["b", "a", "c", "a", "c", "b"]
    assert answer(PROBABILITIES, PROBABILITIES, LABELS, top_k=0).labels == ["b", "a"]


def test_the_columns_of_a_short_answer_are_those_of_its_labels() -> None:
    logits = np.array([[1, 2, 3], [4, 5, 6]], np.float32)

    ranked = answer(logits, PROBABILITIES, LABELS, top_k=2)

    assert ranked.classes == ()
    assert ranked.logits.tolist() == [[2, 1], [4, 6]]
    assert ranked.probabilities.tolist() == PROBABILITIES[[[0], [1]], [[1, 0], [0, 2]]].tolist()
