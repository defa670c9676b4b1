"""What a container may do to its host: as little as can be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.containers.compose import Project

SERVICES = ("export", "server", "score")
GIB = 1 << 30
# What a process in it is, and where it can write.
LOOK = r"""
import json, os, pathlib
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
facts = dict(line.split(":\t", 1) for line in lines)
folders = ("/", "/app", "/etc", "/models", "/data", "/tmp")
def writable(folder):
    try:
        path = pathlib.Path(folder, "written"); path.touch(); path.unlink()
    except OSError:
        return False
    return True
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
    "capabilities": [facts[kind] for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no new privileges": facts["NoNewPrivs"], "seccomp": facts["Seccomp"],
    "writable": [folder for folder in folders if writable(folder)],
    "/tmp runs programs": not os.statvfs("/tmp").f_flag & os.ST_NOEXEC,
}))
"""


@pytest.fixture(scope="module", params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def facts(trained: Project, service: str) -> dict[str, Any]:
    """Of the running server; of another container of the two that end."""
    trained.up("server", alone=True)
    if service == "server":
        printed = trained("exec", "-T", service, "python", "-c", LOOK)
    else:
        alone = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "python")
        printed = trained(*alone, service, "-c", LOOK)
    found: dict[str, Any] = json.loads(printed)
    return found


def test_nobody_is_root_or_may_become_it(facts: dict[str, Any]) -> None:
    assert (facts["uid"], facts["gid"], facts["groups"]) == (10001, 10001, [10001])
    assert facts["no new privileges"] == "1"
    assert facts["seccomp"] == "2"


def test_no_capability_is_left(facts: dict[str, Any]) -> None:
    assert {int(held, 16) for held in facts["capabilities"]} == {0}


def test_only_what_a_service_is_for_can_be_written(facts: dict[str, Any], service: str) -> None:
    results = {"export": ["/models"], "server": [], "score": ["/data"]}
    assert facts["writable"] == [*results[service], "/tmp"]
    assert not facts["/tmp runs programs"]


@pytest.mark.parametrize(("name", "memory"), [("export", 2 * GIB), ("server", GIB), ("score", GIB)])
def test_memory_processors_and_processes_are_limited(
    project: Project, name: str, memory: int
) -> None:
    project("--profile", "jobs", "create", "--no-recreate", "score")
    granted = project.inspect(name)["HostConfig"]
    limits = (granted["Memory"], granted["NanoCpus"], granted["PidsLimit"])
    assert limits == (memory, 1_000_000_000, 512)


def test_training_reaches_no_network(project: Project) -> None:
    assert project.inspect("export")["HostConfig"]["NetworkMode"] == "none"


def test_the_host_alone_reaches_the_ports(project: Project) -> None:
    bound = project.inspect("server")["NetworkSettings"]["Ports"]
    hosts = {binding["HostIp"] for port in ("8001/tcp", "8002/tcp") for binding in bound[port]}
    assert hosts == {"127.0.0.1"}
