"""How many requests leave, by a clock that is moved by hand."""

from __future__ import annotations

import math

import pytest

from seqserve_jobs.engines.window import FIRST, Window

WAIT_S = 0.5


def filled(window: Window, now: float = 0.0) -> int:
    """Lets leave as many as may; gives how many those were."""
    count = 0
    while not window.wait_s(now):
        window.leave()
        count += 1
    return count


def one_window_of_answers(window: Window) -> None:
    """As many come back as were under way, and others take their places."""
    for _ in range(filled(window)):
        window.answered()


def test_no_more_leave_than_the_window_holds() -> None:
    window = Window(64)
    assert filled(window) == FIRST
    assert window.wait_s(0.0) == math.inf
    window.answered()
    assert filled(window) == 1


def test_every_window_of_answers_makes_room_for_about_one_more() -> None:
    window = Window(64)
    for grown in range(10):
        assert FIRST + grown - 1 <= window.size <= FIRST + grown
        one_window_of_answers(window)


@pytest.mark.parametrize("most", [1, 3, 7])
def test_the_window_grows_no_further_than_it_was_told(most: int) -> None:
    window = Window(most)
    for _ in range(20):
        one_window_of_answers(window)
    assert window.size == filled(window) == most


def test_after_a_refusal_none_leaves_for_as_long_as_the_service_asks_for() -> None:
    window = Window(64)
    window.leave()
    window.refused(0.0, 1.0, WAIT_S)
    assert window.wait_s(1.0) == WAIT_S
    assert window.wait_s(1.0 + WAIT_S / 2) == WAIT_S / 2
    assert filled(window, 1.0 + WAIT_S) == FIRST // 2


def test_requests_of_one_time_that_are_all_refused_halve_the_window_once() -> None:
    window = Window(64)
    for _ in range(filled(window)):
        window.refused(0.0, 1.0, WAIT_S)
    assert window.size == FIRST // 2
    filled(window, 1.0 + WAIT_S)
    window.refused(1.0 + WAIT_S, 2.0, WAIT_S)
    assert window.size == FIRST // 4


def test_however_often_it_is_refused_one_request_is_tried_at_a_time() -> None:
    window, now = Window(64), 0.0
    for _ in range(100):
        left = now
        for _ in range(filled(window, left)):
            window.refused(left, now, WAIT_S)
        now += WAIT_S
    assert filled(window, now) == 1
    window.answered()
    assert filled(window, now) == 2


def test_the_longest_of_several_waits_holds() -> None:
    window = Window(64)
    window.leave()
    window.leave()
    window.refused(0.0, 1.0, 10.0)
    window.refused(0.0, 1.0, 1.0)
    assert window.wait_s(1.0) == 10.0


def test_what_comes_back_without_a_word_of_room_changes_nothing() -> None:
    window = Window(64)
    assert filled(window) == FIRST
    window.lost()
    assert (window.under_way, window.size) == (FIRST - 1, FIRST)
