"""The counts of calls by kind, without a server."""

from __future__ import annotations

import threading

import pytest

from seqserve_server.observability.metrics.calls import Calls, Kind

TIMEOUT_S = 60.0


def test_calls_counted_by_many_threads_at_a_time_are_all_there() -> None:
    calls = Calls(lambda _: True)
    barrier = threading.Barrier(4)

    def count() -> None:
        barrier.wait(TIMEOUT_S)
        for number in range(20_000):
            calls.ended("/a.B/C", "gru", "OK", "", number / 1e3)
            if number % 1000 == 0:
                calls.by_kind()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    [(kind, latencies)] = calls.by_kind().items()
    assert kind == Kind("gru", "C", "OK")
    assert latencies.count == 80_000
    assert latencies.total == pytest.approx(4 * sum(range(20_000)) / 1e3)


def test_names_that_nobody_has_take_no_memory() -> None:
    calls = Calls(lambda name: name == "gru")
    for number in range(1000):
        calls.ended("/a.B/C", f"made-up-{number}", "NOT_FOUND", "ModelNotFound", 0.0)

    assert set(calls.by_kind()) == {Kind("", "C", "NOT_FOUND", "ModelNotFound")}
    assert len(calls._by_path) == 0
