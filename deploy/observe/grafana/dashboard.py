"""Grafana's dashboard of a service: writes dashboards/seqserve.json beside this file.

    python -m deploy.observe.grafana.dashboard

The JSON is what Grafana reads and what is committed; change this file, not that one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from grafana_foundation_sdk.builders import common as build
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataTransformerConfig,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PATH = Path(__file__).with_name("dashboards") / "seqserve.json"

SOURCE = common.DataSourceRef("prometheus", "${datasource}")
_MODEL = 'model=~"$model"'
_SERVER = 'instance=~"$instance"'
_BOTH = f"{_MODEL}, {_SERVER}"

_Panel = TypeVar("_Panel", stat.Panel, table.Panel, timeseries.Panel)


def _query(expression: str, legend: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).legend_format(legend)
    return query.datasource(SOURCE).ref_id("A")


def _described(panel: _Panel, title: str, description: str, unit: str) -> _Panel:
    return panel.title(title).description(description).unit(unit).datasource(SOURCE)


def _number(title: str, description: str, unit: str, expression: str) -> stat.Panel:
    """One number, as it is now."""
    panel = _described(stat.Panel(), title, description, unit).height(4).span(4)
    last = build.ReduceDataOptions().calcs(["lastNotNull"])
    return panel.reduce_options(last).with_target(_query(expression, title).instant())


def _lines(
    title: str, description: str, unit: str, *queries: tuple[str, str], stacked: bool = False
) -> timeseries.Panel:
    """Over time; of queries and what their lines are called."""
    panel = _described(timeseries.Panel(), title, description, unit).height(8).span(8)
    panel.min(0).fill_opacity(10).show_points(common.VisibilityMode.NEVER)
    panel.tooltip(build.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    if stacked:
        panel.stacking(build.StackingConfig().mode(common.StackingMode.NORMAL))
    for letter, (expression, legend) in zip("ABCD", queries, strict=False):
        panel.with_target(_query(expression, legend).ref_id(letter).range())
    return panel


def _rows(title: str, description: str, expression: str, columns: list[str]) -> table.Panel:
    """A series a row, of its labels."""
    query = _query(expression, "").format(PromQueryFormat.TABLE).instant()
    panel = _described(table.Panel(), title, description, units.NoUnit).height(8).span(24)
    order = {"indexByName": {name: index for index, name in enumerate(columns)}}
    only = {"include": {"names": columns}}
    return (
        panel.with_target(query)
        .with_transformation(DataTransformerConfig("filterFieldsByName", options=only))
        .with_transformation(DataTransformerConfig("organize", options=order))
    )


def _rate(metric: str, by: str, matching: str, *, over: str = "$__rate_interval") -> str:
    return f"sum by ({by}) (rate({metric}{{{matching}}}[{over}]))"


def _quantile(quantile: float, histogram: str, by: str) -> str:
    return f"histogram_quantile({quantile}, {_rate(f'{histogram}_bucket', f'{by}, le', _BOTH)})"


def _mean(histogram: str) -> str:
    total, count = (_rate(f"{histogram}_{part}", "model", _BOTH) for part in ("sum", "count"))
    return f"{total} / {count}"


def _at_a_glance() -> list[stat.Panel]:
    return [
        _number(
            "Servers",
            "Replicas that Prometheus gets metrics from.",
            units.NoUnit,
            "sum(seqserve:servers:up)",
        ),
        _number(
            "Serving",
            "Replicas whose health is SERVING.",
            units.NoUnit,
            "sum(seqserve_serving)",
        ),
        _number(
            "Models ready",
            "Models that a replica at least answers for.",
            units.NoUnit,
            "sum(max by (model) (seqserve_model_ready))",
        ),
        _number(
            "Throughput",
            "Sequences answered a second, of all replicas and models.",
            units.CountsPerSecond,
            "sum(seqserve:sequences:rate_5m)",
        ),
        _number(
            "Useful steps",
            "Steps asked for ÷ rows × steps computed, of all models; the rest is padding.",
            units.PercentUnit,
            "sum(rate(seqserve_useful_steps_total[5m]))"
            " / (sum(rate(seqserve_computed_steps_total[5m])) > 0)",
        ),
        _number(
            "Alerts",
            "Alerts that fire; docs/operations.md says what each means.",
            units.NoUnit,
            'count(ALERTS{alertname=~"Seqserve.*", alertstate="firing"}) or vector(0)',
        ),
    ]


def _calls() -> list[timeseries.Panel]:
    return [
        _lines(
            "Throughput",
            "Sequences answered a second, by model.",
            units.CountsPerSecond,
            (_rate("seqserve_sequences_total", "model", _BOTH), "{{model}}"),
        ),
        _lines(
            "Calls by status",
            "Calls that ended, by method and gRPC's status.",
            units.RequestsPerSecond,
            (_rate("seqserve_requests_total", "method, code", _BOTH), "{{method}} {{code}}"),
            stacked=True,
        ),
        _lines(
            "Duration of calls",
            "From a call's arrival to its answer, of answered calls of 5 minutes; of all replicas.",
            units.Seconds,
            (f"seqserve:request_duration_seconds:p50_5m{{{_MODEL}}}", "p50 {{model}} {{method}}"),
            (f"seqserve:request_duration_seconds:p99_5m{{{_MODEL}}}", "p99 {{model}} {{method}}"),
        ),
        _lines(
            "Refusals by reason",
            "Calls that ended with an error of the server's own. QueueFull is overload.",
            units.RequestsPerSecond,
            (_rate("seqserve_refusals_total", "reason", _BOTH), "{{reason}}"),
            stacked=True,
        ),
        _lines(
            "Queue wait",
            "From a sequence's admission to its first run; bulk work waits by design.",
            units.Seconds,
            *(
                (
                    _quantile(each, "seqserve_queue_wait_seconds", "model, service_class"),
                    f"p{each * 100:.0f} {{{{model}}}} {{{{service_class}}}}",
                )
                for each in (0.5, 0.99)
            ),
        ),
        _lines(
            "Queue wait that a cluster scales by",
            "p99 of interactive work of a minute, by pod: the HorizontalPodAutoscaler's metric.",
            units.Seconds,
            ("seqserve:queue_wait_seconds:p99_1m", "{{namespace}} {{pod}}"),
        ),
    ]


def _scheduling() -> list[timeseries.Panel]:
    return [
        _lines(
            "Queue depth against its bound",
            "Steps under way, waiting and in play, and how many may be (--max-queue-steps).",
            units.Short,
            (f"seqserve_queue_steps{{{_SERVER}}}", "{{instance}}"),
            (f"seqserve_queue_limit_steps{{{_SERVER}}}", "bound {{instance}}"),
        ),
        _lines(
            "Useful-step fraction",
            "Steps asked for ÷ rows × steps computed; the rest is padding.",
            units.PercentUnit,
            (f"seqserve:useful_steps:fraction_5m{{{_MODEL}}}", "{{model}}"),
        ).max(1),
        _lines(
            "Caution of admission",
            "How many times its prediction a wait is taken for when work with a deadline is let "
            "in: 1.5 at rest, more while answers come too late.",
            units.Short,
            (f"seqserve_admission_caution_ratio{{{_SERVER}}}", "{{instance}} {{service_class}}"),
        ),
        _lines(
            "Rows a run",
            "Sequences that ran together, on average.",
            units.Short,
            (_mean("seqserve_run_rows"), "{{model}}"),
        ),
        _lines(
            "Steps a run",
            "Steps that a run advanced its rows by, on average.",
            units.Short,
            (_mean("seqserve_run_steps"), "{{model}}"),
        ),
        _lines(
            "Duration of a run",
            "Time of a run in onnxruntime.",
            units.Seconds,
            (_quantile(0.5, "seqserve_run_duration_seconds", "model"), "p50 {{model}}"),
            (_quantile(0.99, "seqserve_run_duration_seconds", "model"), "p99 {{model}}"),
        ),
        _lines(
            "Lanes",
            "Lanes that live, that have something to run, and that died and are missing.",
            units.NoUnit,
            (f"seqserve_lanes{{{_SERVER}}}", "{{instance}}"),
            (f"seqserve_lanes_busy{{{_SERVER}}}", "busy {{instance}}"),
            (f"seqserve_lanes_missing{{{_SERVER}}}", "missing {{instance}}"),
            (
                f"increase(seqserve_lane_deaths_total{{{_SERVER}}}[$__rate_interval])",
                "died {{instance}}",
            ),
        ),
        _lines(
            "What lanes do",
            "Lanes in onnxruntime, around runs, giving way to other threads, and idle.",
            units.Short,
            (_rate("seqserve_lane_seconds_total", "activity", _SERVER), "{{activity}}"),
            stacked=True,
        ),
        _lines(
            "Longest turn",
            "Since the slowest lane was seen between two turns; above 30 s it hangs.",
            units.Seconds,
            (f"seqserve_lane_longest_turn_seconds{{{_SERVER}}}", "{{instance}}"),
        ),
    ]


def _models() -> list[timeseries.Panel]:
    reloads = f"increase(seqserve_repository_reloads_total{{{_SERVER}}}[$__rate_interval])"
    return [
        _lines(
            "Difference to the golden set",
            "Largest difference to torch's own outputs on this host.",
            units.ScientificNotation,
            (f"seqserve_model_golden_max_difference{{{_BOTH}}}", "{{model}} {{version}}"),
        ),
        _lines(
            "Versions loaded and refused",
            "Since the server started.",
            units.NoUnit,
            (f"sum by (model) (seqserve_model_loads_total{{{_BOTH}}})", "loaded {{model}}"),
            (
                f"sum by (model, reason) (seqserve_model_refusals_total{{{_BOTH}}})",
                "refused {{model}} {{reason}}",
            ),
        ),
        _lines(
            "Looks at the repository",
            "At the start, by polls and for operators; a failed one leaves what is served.",
            units.NoUnit,
            (f"sum by (instance, result) ({reloads})", "{{instance}} {{result}}"),
        ),
    ]


def _processes() -> list[timeseries.Panel]:
    return [
        _lines(
            "Memory",
            "Resident memory, and what the cgroup grants.",
            units.BytesIEC,
            (f'process_resident_memory_bytes{{job="seqserve", {_SERVER}}}', "{{instance}}"),
            (f"seqserve_memory_limit_bytes{{{_SERVER}}}", "limit {{instance}}"),
        ),
        _lines(
            "Cores in use",
            "Processor seconds a second.",
            units.Short,
            (
                f'rate(process_cpu_seconds_total{{job="seqserve", {_SERVER}}}[$__rate_interval])',
                "{{instance}}",
            ),
        ),
        _lines(
            "Open files",
            "File descriptors, connections of callers among them.",
            units.NoUnit,
            (f'process_open_fds{{job="seqserve", {_SERVER}}}', "{{instance}}"),
        ),
    ]


def _all_of(name: str, label: str, values: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def make() -> str:
    """The dashboard as JSON."""
    board = (
        dashboard.Dashboard("seqserve")
        .uid("seqserve")
        .description("Sequence classifiers: calls, queue, lanes, models, memory.")
        .tags(["seqserve"])
        .time("now-1h", "now")
        .refresh("30s")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Source").type("prometheus")
        )
        .with_variable(_all_of("model", "Model", "label_values(seqserve_model_ready, model)"))
        .with_variable(_all_of("instance", "Server", "label_values(seqserve_serving, instance)"))
    )
    versions = _rows(
        "Versions and their golden sets",
        "Each version that a replica knows: where it is in its life, whether its golden set held.",
        f"seqserve_model_info{{{_BOTH}}}",
        ["model", "version", "state", "golden_set", "instance", "execution_provider", "digest"],
    )
    builds = _rows(
        "What runs",
        "Versions of seqserve and of onnxruntime, by replica.",
        f"seqserve_build_info{{{_SERVER}}}",
        ["instance", "version", "onnxruntime"],
    )
    board.with_row(dashboard.Row("At a glance"))
    for number in _at_a_glance():
        board.with_panel(number)
    for title, lines in {
        "Calls": _calls(),
        "Queue and lanes": _scheduling(),
        "Models": _models(),
        "Processes": _processes(),
    }.items():
        board.with_row(dashboard.Row(title))
        for panel in lines:
            board.with_panel(panel)
        if title == "Models":
            board.with_panel(versions)
        if title == "Processes":
            board.with_panel(builds)
    built = board.build()
    for number_, panel_ in enumerate(built.panels or [], start=1):
        panel_.id_val = number_
    return json.dumps(built, cls=JSONEncoder, indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(make())
