"""Signals before a job has anything under way; what they do later is shown with the command."""

from __future__ import annotations

import os
import signal

import pytest

from seqserve_jobs.interruption import noticed

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_before_anything_is_under_way_ends_the_process(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, noticed("finishing") as interruption:
        os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number
    assert not interruption.asked.is_set()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_while_work_is_under_way_asks_for_its_end_and_says_so(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with noticed("finishing") as interruption:
        interruption.under_way = True
        os.kill(os.getpid(), number)
    assert interruption.asked.is_set()
    assert interruption.exit_code == 128 + number
    assert capfd.readouterr().err == "finishing\n"


def test_whoever_handled_signals_before_handles_them_again() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with noticed("finishing"):
        assert [signal.getsignal(number) for number in NUMBERS] != before
    assert [signal.getsignal(number) for number in NUMBERS] == before
