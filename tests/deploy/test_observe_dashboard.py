"""The dashboard: what its generator gives, by Grafana's own classes, and whole."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.observe.grafana import dashboard

TEXT = dashboard.PATH.read_text()
PANELS: list[dict[str, Any]] = [
    panel for panel in json.loads(TEXT)["panels"] if panel["type"] != "row"
]
TITLES = [f"{panel['id']} {panel['title']}" for panel in PANELS]
UNITS = {value for value in vars(units).values() if isinstance(value, str)}
SHOWN = [
    "Throughput",
    "Calls by status",
    "Duration of calls",
    "Queue wait",
    "Useful-step fraction",
    "Refusals by reason",
    "Versions and their golden sets",
    "Memory",
    "Lanes",
    "Queue depth against its bound",
    "Looks at the repository",
    "Caution of admission",
]


def test_the_committed_dashboard_is_the_one_that_is_generated() -> None:
    assert dashboard.make() == TEXT, "python -m deploy.observe.grafana.dashboard"


def test_grafanas_own_classes_read_the_dashboard_and_lose_nothing() -> None:
    register_default_plugins()
    read = Dashboard.from_json(json.loads(TEXT))

    assert json.loads(json.dumps(read, cls=JSONEncoder)) == json.loads(TEXT)


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_every_panel_says_what_it_shows_in_which_unit_and_from_where(
    panel: dict[str, Any],
) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}

    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == source
    assert panel["targets"]
    assert all(target["datasource"] == source for target in panel["targets"])
    letters = [target["refId"] for target in panel["targets"]]
    assert len(letters) == len(set(letters))


@pytest.mark.parametrize("title", SHOWN)
def test_an_operator_finds_a_panel_for(title: str) -> None:
    assert title in {panel["title"] for panel in PANELS}


def test_the_panels_have_ids_of_their_own_and_do_not_lie_on_one_another() -> None:
    panels = json.loads(TEXT)["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        assert not _overlap(one, other), (one, other)


def test_what_is_shown_is_chosen_by_source_model_and_server() -> None:
    variables = json.loads(TEXT)["templating"]["list"]

    assert [(each["name"], each["type"]) for each in variables] == [
        ("datasource", "datasource"),
        ("model", "query"),
        ("instance", "query"),
    ]


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )
