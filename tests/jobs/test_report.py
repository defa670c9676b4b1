"""What a job says in the end."""

from __future__ import annotations

import pytest

from seqserve_jobs.report import report
from seqserve_jobs.summary import Summary


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (6.3, "0:00:06.3"),
        (59.96, "0:01:00.0"),
        (36_000.04, "10:00:00.0"),
        (360_061.5, "100:01:01.5"),
    ],
)
def test_a_duration_is_whole_however_long(seconds: float, shown: str) -> None:
    summary = Summary("m", 1, "d", "out", (), shards=1, seconds=seconds)
    assert f"{shown}, 0 sequences/s" in report(summary).splitlines()
