"""Two replicas behind a client's round-robin, one after the other gone: no call fails.

What is stopped is drained; what is killed takes its connections with it. Either way the client
finds its way to the other replica within the deadline, and back when the first is there again.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server_process import Server
from seqserve_client import Classification, Client, Unavailable, channel
from tests.integration.load import CALLERS, loaded

CALLS_BETWEEN = 200
KILLS = 10


@pytest.fixture(params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.mark.slow
def test_no_call_fails_while_replicas_are_drained_and_started_again_one_by_one(
    models: Path, transport: str
) -> None:
    with ExitStack() as stack:
        replicas = [stack.enter_context(_replica(models, transport)) for _ in range(2)]
        with loaded(_joined(replicas), models) as load:
            load.wait_for_calls(CALLS_BETWEEN)
            for replica in replicas:
                assert replica.stop() == 0
                load.wait_for_calls(CALLS_BETWEEN)
                stack.enter_context(_replica(models, transport, replica.address))
                load.wait_for_calls(CALLS_BETWEEN)


@pytest.mark.slow
def test_calls_of_a_killed_replica_are_answered_by_the_other(models: Path, transport: str) -> None:
    with ExitStack() as stack:
        replicas = [stack.enter_context(_replica(models, transport)) for _ in range(2)]
        with loaded(_joined(replicas), models) as load:
            load.wait_for_calls(CALLS_BETWEEN)
            replicas[0].kill()
            load.wait_for_calls(CALLS_BETWEEN)
            stack.enter_context(_replica(models, transport, replicas[0].address))
            load.wait_for_calls(CALLS_BETWEEN)
            replicas[1].kill()
            load.wait_for_calls(CALLS_BETWEEN)


@pytest.mark.slow
def test_no_more_calls_fail_than_were_in_flight_and_once_more_each_is_answered(
    models: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the client's own retries, which would hide how many failed."""
    monkeypatch.setitem(channel._SERVICE_CONFIG, "methodConfig", [])
    classify, failed = Client.classify, []

    def counted(*args: Any, **named: Any) -> Classification:  # noqa: ANN401
        try:
            return classify(*args, **named)
        except Unavailable as error:
            failed.append(error)
            return classify(*args, **named)

    monkeypatch.setattr(Client, "classify", counted)
    with ExitStack() as stack:
        replicas = [stack.enter_context(_replica(models, transport)) for _ in range(2)]
        with loaded(_joined(replicas), models) as load:
            for _ in range(KILLS):
                load.wait_for_calls(CALLS_BETWEEN)
                replicas[0].kill()
                load.wait_for_calls(CALLS_BETWEEN)
                assert len(failed) <= CALLERS
                if failed:
                    break
                replicas[0] = stack.enter_context(_replica(models, transport, replicas[0].address))
    assert failed, "nothing was in flight, however often"


def _replica(models: Path, transport: str, address: str = "127.0.0.1:0") -> Server:
    return Server(models, transport, core=None, address=address)


def _joined(replicas: list[Server]) -> str:
    return ",".join(replica.address for replica in replicas)
