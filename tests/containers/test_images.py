"""Each image by itself, as confined as a cluster would have it."""

from __future__ import annotations

import csv
import json
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from seqserve import artifact
from seqserve_client import Client
from tests.containers.compose import ROOT, Docker, Project
from tests.integration.conftest import in_process

if TYPE_CHECKING:
    from tests.conftest import ModelRepository
    from tests.containers.conftest import Images

ROOMS = ("server", "export", "jobs")
CONFINED = (
    *("--read-only", "--tmpfs", "/tmp:mode=1777,nosuid,nodev,noexec", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
)
OFFLINE = (*CONFINED, "--network", "none")
PORT = ("--publish", "127.0.0.1::8001", "--env", "SEQSERVE_INSECURE=true")
OFTEN = ("--health-interval", "1s")
SOMEBODY = ("--user", "4242:0")
LARGEST_SERVER = 250_000_000
AGES_S = 300
INSTALLED = """
import importlib.metadata, json
print(json.dumps([[each.name, each.version] for each in importlib.metadata.distributions()]))
"""


@pytest.fixture(params=ROOMS)
def image(request: pytest.FixtureRequest, images: Images) -> str:
    """Each of them."""
    name: str = getattr(images, request.param)
    return name


@pytest.fixture(scope="module")
def models(repository: ModelRepository) -> Path:
    """A repository that any user may read."""
    folder = repository(speakers={})
    folder.chmod(0o755)
    return folder


def repository_of(folder: Path) -> tuple[str, str]:
    return ("--volume", f"{folder}:/models:ro")


@contextmanager
def running(engine: Docker, *words: str) -> Iterator[str]:
    """The container that `docker run` starts with these words, removed in the end."""
    container = engine("run", "--detach", *CONFINED, *words)
    try:
        yield container
    finally:
        engine("rm", "--force", "--volumes", container)


def turn(engine: Docker, container: str) -> str:
    """What the health check says first, once it has made up its mind."""
    events = engine.start(
        *("events", "--since", "0", "--until", str(int(time.time()) + AGES_S)),
        *("--filter", f"container={container}", "--filter", "event=health_status"),
        *("--format", "{{.Action}}"),
    )
    assert events.stdout
    try:
        return events.stdout.readline().strip()
    finally:
        events.kill()
        events.communicate()


def in_python(engine: Docker, image: str, script: str) -> str:
    words = ("run", "--rm", *OFFLINE, "--entrypoint", "python", image, "-c", script)
    return engine(*words)


def installed(engine: Docker, image: str) -> set[tuple[str, str]]:
    return {
        (canonical(name), version)
        for name, version in json.loads(in_python(engine, image, INSTALLED))
    }


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def environment(engine: Docker, image: str) -> Mapping[str, str]:
    return dict(each.split("=", 1) for each in engine.inspect(image)["Config"]["Env"])


def test_it_runs_as_a_user_without_a_name_or_rights(engine: Docker, image: str) -> None:
    words = ("run", "--rm", *OFFLINE, "--entrypoint", "cat", image, "/proc/self/status")
    status = dict(line.split(":\t", 1) for line in engine(*words).splitlines())
    assert status["Uid"].split() == ["10001"] * 4
    assert status["Gid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("user", [(), SOMEBODY], ids=["its own user", "any other"])
def test_help_needs_no_network_and_no_place_to_write(
    engine: Docker, image: str, user: tuple[str, ...]
) -> None:
    printed = engine("run", "--rm", *OFFLINE, *user, image, "--help")
    for command in ("serve", "train", "score", "health"):
        assert re.search(rf"^│ {command} ", printed, re.MULTILINE)


@pytest.mark.parametrize("user", [(), SOMEBODY], ids=["its own user", "any other"])
def test_the_host_gets_the_answers_that_onnxruntime_gives_it(
    engine: Docker, images: Images, models: Path, user: tuple[str, ...]
) -> None:
    sequence = np.random.default_rng(0).standard_normal((9, 3), np.float32)
    run = in_process(models, "speakers")
    words = (*PORT, *user, *repository_of(models), images.server)
    with running(engine, *words) as container:
        engine(
            "exec", container, "seqserve", "health", "--model", "speakers", "--wait", str(AGES_S)
        )
        with Client(engine("port", container, "8001/tcp")) as client:
            answer = client.classify([sequence], model="speakers")
    assert np.array_equal(answer.logits, run(sequence[None], np.array([9], np.int32)).logits)


def test_it_is_healthy_only_after_the_golden_set_whatever_its_port(
    engine: Docker, images: Images, models: Path
) -> None:
    elsewhere = ("--env", "SEQSERVE_ADDRESS=0.0.0.0:9001")
    words = (*PORT, *OFTEN, *elsewhere, *repository_of(models), images.server)
    with running(engine, *words) as container:
        assert turn(engine, container) == "health_status: healthy"
        lines = engine.run("logs", "--timestamps", container).stderr.splitlines()
        probes: list[dict[str, Any]] = engine.inspect(container)["State"]["Health"]["Log"]
    [ready] = [line for line in lines if " ready in " in line]
    first = next(probe for probe in probes if probe["ExitCode"] == 0)
    assert moment(first["End"]) > moment(ready.split()[0])


def moment(text: str) -> datetime:
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text))


def test_it_is_not_healthy_where_its_only_model_is_broken(
    engine: Docker, images: Images, repository: ModelRepository
) -> None:
    broken = repository(speakers={})
    broken.chmod(0o755)
    graph = artifact.version_path(broken, "speakers", 1) / artifact.MODEL_FILE
    graph.write_bytes(graph.read_bytes()[:-1])
    impatient = ("--health-start-period", "1ms", "--health-retries", "2")
    words = (*PORT, *OFTEN, *impatient, *repository_of(broken), images.server)
    with running(engine, *words) as container:
        assert turn(engine, container) == "health_status: unhealthy"
        last = engine.inspect(container)["State"]["Health"]["Log"][-1]
        done = engine.run("exec", container, "seqserve", "health")
    assert "has no model ready" in last["Output"]
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_the_server_is_the_first_process_and_drains(
    engine: Docker, images: Images, models: Path
) -> None:
    with running(engine, *PORT, *repository_of(models), images.server) as container:
        engine("exec", container, "seqserve", "health", "--wait", str(AGES_S))
        first = engine("exec", container, "cat", "/proc/1/cmdline").split("\0")
        engine("stop", "--time", str(AGES_S), container)
        log = engine.run("logs", container).stderr
        ended = engine.inspect(container)["State"]["ExitCode"]
    assert first[1:4] == ["/app/bin/seqserve", "serve", "/models"]
    assert ended == 0
    assert "SIGTERM: draining" in log
    assert log.splitlines()[-1].endswith("stopped")


def test_a_command_that_handles_no_signals_ends_by_one_too(engine: Docker, images: Images) -> None:
    # As a container's first process it would outlive all but SIGKILL.
    waiting = ("health", "--server", "127.0.0.1:1", "--wait", str(10 * AGES_S))
    with running(engine, images.export, *waiting) as container:
        in_handler = "until grep -q '^SigCgt:.*[4-7c-f]...$' /proc/1/status; do :; done"
        engine("exec", container, "sh", "-c", in_handler)
        engine("stop", "--time", str(AGES_S), container)
        assert engine.inspect(container)["State"]["ExitCode"] == 128 + 15


def test_a_login_shell_finds_the_commands_of_jobs(engine: Docker, images: Images) -> None:
    shell = ("--entrypoint", "bash", images.jobs)
    assert (
        engine("run", "--rm", *OFFLINE, *shell, "-lc", "command -v seqserve") == "/app/bin/seqserve"
    )


def test_it_does_not_serve_in_plaintext_unasked(engine: Docker, images: Images) -> None:
    done = engine.run("run", "--rm", *OFFLINE, images.server)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "give --tls-certificate and --tls-key, or --insecure" in line
    assert "SEQSERVE_ADDRESS" in line


def test_the_server_has_no_torch_and_nothing_that_builds(engine: Docker, images: Images) -> None:
    names = {name for name, _ in installed(engine, images.server)}
    assert not names & {"torch", "onnx", "pyarrow", "pip", "setuptools", "wheel", "hatchling"}
    assert {"onnxruntime", "pygrpc-native", "seqserve"} <= names
    find = "for tool in cc gcc g++ clang ld make cmake cargo; do command -v $tool; done"
    done = engine.run("run", "--rm", *OFFLINE, "--entrypoint", "sh", images.server, "-c", find)
    assert done.stdout == ""


def test_the_server_takes_250_mb_over_its_base_at_most(engine: Docker, images: Images) -> None:
    server, base = (engine.inspect(name)["Size"] for name in (images.server, base_image()))
    assert server - base <= LARGEST_SERVER


def base_image() -> str:
    file = (ROOT / "server" / "Dockerfile").read_text()
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", file, re.MULTILINE)
    assert found
    return found[1]


def test_jobs_share_the_layer_of_the_servers_libraries(engine: Docker, images: Images) -> None:
    base, server, jobs = (
        engine.inspect(name)["RootFS"]["Layers"]
        for name in (base_image(), images.server, images.jobs)
    )
    libraries = len(base) + 1  # after the bytecode of the standard library
    assert jobs[: libraries + 1] == server[: libraries + 1]


def test_it_lists_what_it_is_made_of(engine: Docker, image: str) -> None:
    words = ("run", "--rm", *OFFLINE, "--entrypoint", "cat", image, "/app/sbom.cdx.json")
    listed = json.loads(engine(*words))
    assert listed["bomFormat"] == "CycloneDX"
    parts = {(canonical(part["name"]), part["version"]) for part in listed["components"]}
    assert parts == installed(engine, image)


def test_nothing_that_it_is_made_of_lacks_anything(engine: Docker, image: str) -> None:
    base_python = ("--entrypoint", "/usr/local/bin/python3", image)  # for its pip
    engine(
        "run", "--rm", *OFFLINE, *base_python, "-m", "pip", "--python", "/app/bin/python", "check"
    )


def test_it_says_what_it_is(engine: Docker, image: str) -> None:
    labels = engine.inspect(image)["Config"]["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert labels["org.opencontainers.image.title"].startswith("seqserve ")


def test_a_build_names_its_revision(engine: Docker, built: Mapping[str, str]) -> None:
    tagged = Docker({**built, "SEQSERVE_TAG": "tests-revision"})
    revision = ("--build-arg", "REVISION=0123abc", "--build-arg", "VERSION=9.8.7")
    Project(tagged, "seqserve-build")("build", "--quiet", *revision, "server")
    labels = engine.inspect("seqserve-server:tests-revision")["Config"]["Labels"]
    engine("rmi", "seqserve-server:tests-revision")
    assert labels["org.opencontainers.image.revision"] == "0123abc"
    assert labels["org.opencontainers.image.version"] == "9.8.7"


def test_telemetry_is_off(engine: Docker, image: str, images: Images) -> None:
    assert environment(engine, image)["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment(engine, images.jobs)["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_export_image_proves_a_model_without_writing(
    engine: Docker, images: Images, models: Path
) -> None:
    mounted = repository_of(models)
    engine("run", "--rm", *OFFLINE, *mounted, images.export, "verify", "/models/speakers/1")


def test_the_jobs_image_scores_files_by_itself(
    engine: Docker, images: Images, models: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "in.csv").write_text(
        "id,feature 0,feature 1,feature 2\na,1,2,3\na,1,2,3\nb,0,0,0\n"
    )
    data = ("--volume", f"{tmp_path}:/data")
    words = ("score", "/data/in.csv", "/data/out.csv", "--model", "speakers")
    mounts = (*repository_of(models), *data)
    engine("run", "--rm", *OFFLINE, *mounts, images.jobs, *words, "--repository", "/models")
    written = tmp_path / "out.csv"
    with written.open(newline="") as lines:
        assert [row["id"] for row in csv.DictReader(lines)] == ["a", "b"]
    assert written.stat().st_uid == 10001
