from __future__ import annotations

import pytest

from seqserve_server.errors import InvalidSetting
from seqserve_server.models.version_policy import ALL, LATEST, Choice, parse


def test_the_latest_is_served_unless_something_else_is_said() -> None:
    policy = parse([])

    assert policy.choice("speakers") is LATEST


def test_a_model_may_have_a_policy_of_its_own() -> None:
    policy = parse(["all", "speakers=3,1,3", "gestures=latest"])

    assert policy.choice("anything") is ALL
    assert policy.choice("speakers") == Choice((1, 3))
    assert policy.choice("gestures") is LATEST


@pytest.mark.parametrize(
    ("word", "candidates", "one_is_enough"),
    [
        ("latest", [9, 4, 2], True),
        ("all", [9, 4, 2], False),
        ("4", [4], False),
        ("7,2", [7, 2], False),
    ],
)
def test_candidates_come_newest_first(
    word: str, candidates: list[int], one_is_enough: bool
) -> None:
    choice = parse([word]).choice("speakers")

    assert choice.candidates([2, 4, 9]) == candidates
    assert choice.one_is_enough is one_is_enough


@pytest.mark.parametrize(
    "words",
    [["newest"], ["0"], ["-1"], ["1,"], [""], ["a/b=1"], ["=1"], ["speakers="], ["speakers=x"]],
    ids=lambda words: words[0] or "empty",
)
def test_a_word_that_is_no_policy_is_refused(words: list[str]) -> None:
    with pytest.raises(InvalidSetting, match="--version-policy"):
        parse(words)


@pytest.mark.parametrize("words", [["1", "2"], ["a=1", "all", "a=2"]], ids=["default", "named"])
def test_two_policies_for_one_model_are_refused(words: list[str]) -> None:
    with pytest.raises(InvalidSetting, match="already"):
        parse(words)
