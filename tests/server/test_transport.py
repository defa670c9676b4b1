from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from seqserve_server import cores
from seqserve_server.errors import InvalidSetting
from seqserve_server.options import Transport
from seqserve_server.transports import transport

THREADS_OF_NATIVE = """
import asyncio, os, sys
from seqserve_server.transports import transport

async def bind():
    os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
    others = transport.grpcio(1 << 20)
    listener = transport.native([], others, 1 << 20, processes=int(sys.argv[2]))
    before = len(os.listdir("/proc/self/task"))
    transport.bind(listener, "127.0.0.1:0")
    print(len(os.listdir("/proc/self/task")) - before)

asyncio.run(bind())
"""


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:8001", ("127.0.0.1", 8001)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert transport.split_address(address) == parts


@pytest.mark.parametrize("address", ["8001", ":8001", "host:", "host:http", "host:65536", "h:-1"])
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(InvalidSetting, match="HOST:PORT is needed"):
        transport.split_address(address)


def test_the_native_transport_is_the_default_where_it_is_installed() -> None:
    assert transport.resolve(Transport.AUTO) is Transport.NATIVE


def test_without_the_native_transport_grpcio_serves_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transport, "find_spec", lambda _: None)

    with caplog.at_level(logging.INFO):
        assert transport.resolve(Transport.AUTO) is Transport.GRPCIO

    assert "pygrpc-native is not installed" in caplog.text
    with pytest.raises(InvalidSetting, match="pip install"):
        transport.resolve(Transport.NATIVE)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("most_cores", "processes"), [(1, 1), (2, 1), (2, 2)], ids=["one core", "two", "a core each"]
)
def test_the_native_transport_has_no_more_threads_than_cores(
    most_cores: int, processes: int
) -> None:
    some = sorted(os.sched_getaffinity(0))[:most_cores]
    ran = subprocess.run(
        [sys.executable, "-c", THREADS_OF_NATIVE, ",".join(map(str, some)), str(processes)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    granted = min(len(some), cores.granted())
    assert int(ran.stdout) == max(1, granted // processes)
