from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from seqserve_server.errors import InvalidSetting
from seqserve_server.settings import Settings


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_bulk_work_may_not_wait_for_ever(seconds: float) -> None:
    with pytest.raises(InvalidSetting, match=r"--bulk-patience is .*; a number of seconds above 0"):
        Settings(Path("models"), bulk_patience_s=seconds)


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_the_counters_are_logged_every_so_many_seconds(seconds: float) -> None:
    with pytest.raises(InvalidSetting, match=r"--stats is .*; a number of seconds is needed"):
        Settings(Path("models"), stats_interval_s=seconds)


def test_there_is_at_least_one_process() -> None:
    with pytest.raises(InvalidSetting, match="--processes is 0; at least 1 is needed"):
        Settings(Path("models"), processes=0)


def test_several_processes_cannot_be_operated_by_calls() -> None:
    with pytest.raises(InvalidSetting, match="a call reaches one process only"):
        Settings(Path("models"), processes=2, allow_operator_calls=True)


def test_several_processes_need_a_system_that_shares_out_a_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(InvalidSetting, match="--processes 2: only Linux"):
        Settings(Path("models"), processes=2)
