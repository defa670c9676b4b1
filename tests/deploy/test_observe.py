"""deploy/observe: rules and their tests by promtool, alerts and their page, what Compose mounts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.prometheus_process import OBSERVE, ROOT, needs_prometheus


def _files(folder: Path) -> dict[Path, dict[str, Any]]:
    """What is in each, which nobody changes."""
    return {path: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yml"))}


RULES = _files(OBSERVE / "rules")
TESTS = _files(OBSERVE / "rules/tests")
OPERATIONS = (ROOT / "docs/operations.md").read_text()
SEVERITIES = {"critical", "warning", "info"}


def _rules() -> Iterator[dict[str, Any]]:
    for file in RULES.values():
        for group in file["groups"]:
            yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in _rules() if "alert" in rule}
RECORDS = {rule["record"] for rule in _rules() if "record" in rule}


@needs_prometheus
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["check", "config", OBSERVE / "prometheus.yml"], id="configuration"),
        pytest.param(["check", "rules", "--lint=all", "--lint-fatal", *RULES], id="rules"),
        pytest.param(["test", "rules", *TESTS], id="tests of the rules"),
    ],
)
def test_promtool_finds_nothing_wrong_with(words: list[str | Path]) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout


@needs_prometheus
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_that_never_fires_fails_its_test(alert: str, tmp_path: Path) -> None:
    """So each is really tested."""
    (tmp_path / "tests").mkdir()
    for path, file in RULES.items():
        groups = deepcopy(file)
        for group in groups["groups"]:
            for rule in group["rules"]:
                if rule.get("alert") == alert:
                    rule["expr"] = f"({rule['expr']}) and vector(0) > 1"
        (tmp_path / path.name).write_text(yaml.safe_dump(groups))
    changed = []
    for path, file in TESTS.items():
        # The others know nothing of it, and take their time.
        tests = [each for each in file["tests"] if alert in str(each)]
        if tests:
            changed.append(tmp_path / "tests" / path.name)
            changed[-1].write_text(yaml.safe_dump(file | {"tests": tests}))

    assert changed
    done = subprocess.run(
        ["promtool", "test", "rules", *changed], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "FAILED" in done.stdout + done.stderr


@pytest.mark.parametrize("record", sorted(RECORDS))
def test_every_recording_rule_has_a_test(record: str) -> None:
    asked = [
        each["expr"]
        for file in TESTS.values()
        for group in file["tests"]
        for each in group.get("promql_expr_test", [])
    ]
    assert any(record in expression for expression in asked)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in SEVERITIES
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"].endswith(".")
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{alert.lower()}"


def test_the_page_has_a_row_for_every_alert_with_its_severity() -> None:
    rows = re.findall(
        r'^\| <a id="(\w+)"></a>`(\w+)` \| (\w+) \| (.+?) \| (.+?) \| (.+?) \|$', OPERATIONS, re.M
    )
    assert {name: severity for _, name, severity, *_ in rows} == {
        name: rule["labels"]["severity"] for name, rule in ALERTS.items()
    }
    assert all(anchor == name.lower() for anchor, name, *_ in rows)


def test_every_metric_that_is_asked_for_is_on_the_page() -> None:
    """As the servers' metrics are held against it as well, all of them are there to be asked."""
    documented = set(re.findall(r"^\| `(seqserve_\w+)` \|", OPERATIONS, re.M))
    dashboard = (OBSERVE / "grafana/dashboards/seqserve.json").read_text()
    asked = {
        re.sub("_(bucket|sum|count)$", "", name)
        for text in [dashboard, *(rule["expr"] for rule in _rules())]
        for name in re.findall(r"\bseqserve_\w+", text)
    }
    assert asked <= documented
    recorded = set(re.findall(r"\bseqserve(?::\w+)+", dashboard))
    assert recorded <= RECORDS


def _service(name: str) -> dict[str, Any]:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    service: dict[str, Any] = compose["services"][name]
    return service


def _mounts(service: dict[str, Any]) -> dict[str, Path]:
    """Files of this tree by where they are in the container."""
    volumes = [volume.split(":") for volume in service["volumes"]]
    return {inside: ROOT / outside for outside, inside, *_ in volumes if outside.startswith("./")}


def test_grafana_finds_its_source_and_its_dashboard() -> None:
    service = _service("grafana")
    mounts = _mounts(service)
    provisioning = "/etc/grafana/provisioning"
    [source] = mounts[f"{provisioning}/datasources"].glob("*.yml")
    [provider] = mounts[f"{provisioning}/dashboards"].glob("*.yml")
    [datasource] = yaml.safe_load(source.read_text())["datasources"]
    [dashboards] = yaml.safe_load(provider.read_text())["providers"]

    assert datasource["url"] == "http://prometheus:9090"
    folder = dashboards["options"]["path"]
    home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (mounts[folder] / Path(home).name).is_file()
    assert Path(home).parent == Path(folder)


def test_grafana_asks_for_rates_of_the_interval_that_prometheus_scrapes_by() -> None:
    [source] = (OBSERVE / "grafana/provisioning/datasources").glob("*.yml")
    [datasource] = yaml.safe_load(source.read_text())["datasources"]
    configuration = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())

    interval = configuration["global"]["scrape_interval"]
    assert datasource["jsonData"]["timeInterval"] == interval


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_who_observes_is_confined_and_reached_by_this_host_alone(name: str) -> None:
    service = _service(name)

    assert service["profiles"] == ["observe"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert set(service["deploy"]["resources"]["limits"]) == {"memory", "cpus", "pids"}
    [port] = service["ports"]
    assert port.startswith(f"${{{name.upper()}_BIND:-127.0.0.1}}:")
    assert re.fullmatch(rf"\${{{name.upper()}_IMAGE:-\S+:v?\d+\.\d+\.\d+}}", service["image"])
    assert all(volume.endswith(":ro") for volume in service["volumes"] if volume.startswith("./"))
