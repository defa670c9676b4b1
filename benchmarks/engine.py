"""What a container engine tells of images and containers."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.containers.compose import Docker

_UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

_SUM = """
import importlib.metadata, json
sizes = {}
for each in importlib.metadata.distributions():
    files = [file.locate() for file in each.files or ()]
    sizes[each.name] = sum(file.stat().st_size for file in files if file.is_file())
print(json.dumps(sizes))
"""


@contextmanager
def container(docker: Docker, *words: str | Path) -> Iterator[str]:
    """One that `docker run --detach` starts, by its id; it is gone in the end."""
    started = docker("run", "--detach", *words)
    try:
        yield started
    finally:
        docker("rm", "--force", "--volumes", started)


def image_mb(docker: Docker, image: str) -> float:
    """What its layers hold, in millions of bytes, as the engine counts."""
    size: int = docker.inspect(image)["Size"]
    return size / 1e6


def packages_mb(docker: Docker, image: str) -> dict[str, float]:
    """What each distribution of an image's Python takes, the largest first."""
    told = docker("run", "--rm", "--network=none", "--entrypoint=python", image, "-c", _SUM)
    sizes: dict[str, int] = json.loads(told)
    return {name: size / 1e6 for name, size in sorted(sizes.items(), key=lambda each: -each[1])}


def memory_mib(docker: Docker, started: str) -> float:
    """What the engine says that a container takes, without the cache of files."""
    said = docker("stats", "--no-stream", "--format={{.MemUsage}}", started)
    figure, unit = re.findall(r"^([\d.]+)(\w+)", said)[0]
    return float(figure) * _UNITS[unit] / 2**20


def cpu_seconds(docker: Docker, started: str) -> float:
    """Processor time that a container's processes have used."""
    ticks = 0
    for pid in docker("top", started, "-o", "pid").split()[1:]:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def address(docker: Docker, started: str, port: int = 8001) -> str:
    """Where the host reaches a container, past the proxy of published ports."""
    networks = docker.inspect(started)["NetworkSettings"]["Networks"]
    return f"{next(iter(networks.values()))['IPAddress']}:{port}"


def wait_until_serving(where: str, seconds: float = 120.0) -> None:
    """Asks for health every 10 ms, until the answer is SERVING.

    Raises:
        TimeoutError: it is not by then.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with grpc.insecure_channel(where) as channel:
            try:
                answer = HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                pass
            else:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        time.sleep(0.01)
    raise TimeoutError(f"{where} does not serve after {seconds:.0f} s")
