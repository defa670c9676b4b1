"""Servers that vanish: no word comes from them, and none that they are gone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from seqserve_client import Client, InvalidOptions
from seqserve_client.testing import FakeServer
from tests.campaigns.relay import Relay

Connect = Callable[..., Client]

PATIENT_S = 120.0


def test_what_a_vanished_server_was_asked_another_answers(
    connect: Connect, server: FakeServer
) -> None:
    with FakeServer(["low", "middle", "high"]) as vanishing, Relay(vanishing.address) as way:
        client = connect(
            f"{way.address},{server.address}",
            keepalive_s=0.5,
            keepalive_timeout_s=0.5,
            timeout_s=PATIENT_S,
        )
        while not (vanishing.calls and server.calls):
            client.classify([[0.0]], model="model")
        way.go_dead()
        answered = len(vanishing.calls)
        for _ in range(4):  # whom the first one goes to is for gRPC to say
            assert client.classify([[2.0]], model="model").labels == ("high",)
        assert len(vanishing.calls) == answered


@pytest.mark.parametrize("option", ["keepalive_s", "keepalive_timeout_s"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_times_that_cannot_be_are_refused(connect: Connect, option: str, seconds: float) -> None:
    with pytest.raises(InvalidOptions, match=option):
        connect("127.0.0.1:1", **{option: seconds})


def test_a_client_may_never_ask(connect: Connect, server: FakeServer) -> None:
    client = connect(server.address, keepalive_s=math.inf, keepalive_timeout_s=math.inf)
    assert client.classify([[2.0]], model="model").labels == ("high",)
