"""docker-compose.yml and .env.example say the same, and a server can be told every setting."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from seqserve_server.commands import serve

ROOT = Path(__file__).parents[2]


def _services(file: Path) -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(file.read_text())["services"]
    return services


FILES = sorted(ROOT.glob("docker-compose*.yml"))
SERVICES: dict[str, Any] = _services(ROOT / "docker-compose.yml")
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
COMMENTED = re.compile(r"^#(\w+)=(.*)$", re.MULTILINE)
BY_THE_IMAGE = {"SEQSERVE_REPOSITORY", "SEQSERVE_ADDRESS", "SEQSERVE_METRICS_ADDRESS"}
FILES_THAT_NOBODY_MOUNTS = {
    "SEQSERVE_CONFIG",
    "SEQSERVE_TLS_CLIENT_CA",
    "SEQSERVE_TRUSTED_KEYS",
}
CONFINED = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}


def test_env_example_has_every_variable_with_the_default_that_counts() -> None:
    told: dict[str, set[str]] = {}
    for file in FILES:
        for name, default in VARIABLE.findall(file.read_text()):
            told.setdefault(name, set()).add(default)
    example = COMMENTED.findall((ROOT / ".env.example").read_text())

    assert {name: {default} for name, default in example} == told
    assert len({name for name, _ in example}) == len(example)


def test_a_copy_of_env_example_holds_nothing_back_at_an_old_default() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_no_variable_is_without_a_default() -> None:
    for file in FILES:
        assert "$" not in VARIABLE.sub("", file.read_text()), file.name


def test_a_server_can_be_told_every_setting() -> None:
    told = {
        name
        for file in FILES
        for name in _services(file).get("server", {}).get("environment", {})
        if name != "SEQSERVE_CA_FILE"  # the health check's
    }

    assert told == _settings() - BY_THE_IMAGE - FILES_THAT_NOBODY_MOUNTS


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined_and_limited(name: str) -> None:
    service = SERVICES[name]

    assert {key: service.get(key) for key in CONFINED} == CONFINED
    assert service["deploy"]["resources"]["limits"].keys() == {"memory", "cpus", "pids"}


def _settings() -> set[str]:
    app = typer.Typer()
    app.command()(serve)
    flags = typer.main.get_command(app).params
    return {str(flag.envvar) for flag in flags if flag.envvar}
