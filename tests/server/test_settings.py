from __future__ import annotations

import math
import socket
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


def test_several_processes_need_a_system_that_shares_out_a_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(InvalidSetting, match="--processes 2: only Linux"):
        Settings(Path("models"), processes=2)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:0", "[::]:0", "192.0.2.1:8001", "[2001:db8::1]:8001", "[::ffff:192.0.2.1]:8001"],
)
def test_beyond_loopback_tls_is_needed_or_a_word_that_it_is_not(address: str) -> None:
    with pytest.raises(InvalidSetting, match=r"is beyond loopback.*--tls-certificate.*--insecure"):
        Settings(Path("models"), address=address)

    Settings(Path("models"), address=address, insecure=True)
    Settings(Path("models"), address=address, tls_certificate=Path("a.pem"), tls_key=Path("a.key"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost"])
def test_on_loopback_neither_is_needed(host: str) -> None:
    Settings(Path("models"), address=f"{host}:0")


def test_a_name_counts_by_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["127.0.0.1"]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (each, 0)) for each in addresses]
    )

    Settings(Path("models"), address="here:0")
    addresses.append("192.0.2.1")
    with pytest.raises(InvalidSetting, match="is beyond loopback"):
        Settings(Path("models"), address="here:0")


def test_a_name_without_an_address_is_not_taken_for_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(InvalidSetting, match="is beyond loopback"):
        Settings(Path("models"), address="nowhere:0")


def test_metrics_do_not_go_beyond_loopback_either_unless_told() -> None:
    with pytest.raises(InvalidSetting, match=r"--metrics-address 0.0.0.0:0 is beyond loopback"):
        Settings(Path("models"), metrics_address="0.0.0.0:0")

    Settings(Path("models"), metrics_address="0.0.0.0:0", insecure=True)
    Settings(Path("models"), metrics_address="127.0.0.1:0")
