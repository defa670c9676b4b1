"""What no schema says of deploy/kubernetes: that its objects, the command and the rules fit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from seqserve_export.commands import train
from seqserve_server.commands import serve
from seqserve_server.serving import CLOSE_S, LINGER_S
from tests.deploy.manifests import (
    FOLDERS,
    ROOT,
    SERVERS,
    Object,
    all_pods,
    built,
    containers,
    of_kind,
    pods,
    server,
    settings,
    the,
    variables,
)
from tests.deploy.prometheus_process import needs_prometheus

PROJECT = ROOT.parents[1]
RULES = PROJECT / "deploy/observe/rules"
TRACES_S = 3.0
"""What a server that stops gives to a collector of traces."""


def _command(function: Any) -> Any:  # noqa: ANN401
    app = typer.Typer()
    app.command()(function)
    return typer.main.get_command(app)


def _of_the_server(folder: str) -> Object:
    return dict(the(folder, "Deployment")["spec"]["template"]["spec"])


def _rules() -> Iterator[Object]:
    for path in RULES.glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


@pytest.mark.parametrize("folder", SERVERS)
def test_every_setting_is_one_of_the_servers(folder: str) -> None:
    known = {parameter.envvar for parameter in _command(serve).params}
    assert settings(folder).keys() <= known


@pytest.mark.parametrize("folder", SERVERS)
def test_the_server_takes_its_arguments(folder: str) -> None:
    name, *words = server(folder)["args"]
    assert name == "serve"
    with _command(serve).make_context("serve", words) as context:
        repository = context.params["repository"]
    assert str(repository) in {mount["mountPath"] for mount in server(folder)["volumeMounts"]}


def test_the_development_overlay_publishes_what_its_server_reads() -> None:
    [container] = the("overlays/development", "Job")["spec"]["template"]["spec"]["containers"]
    name, *words = container["args"]
    assert name == "train"
    with _command(train).make_context("train", words) as context:
        told = context.params
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts[str(told["repository"])] == "models"
    assert told["checkpoints"].is_relative_to("/tmp")
    assert float(settings("overlays/development")["SEQSERVE_POLL"]) > 0


@pytest.mark.parametrize("folder", SERVERS)
def test_a_pod_may_take_as_long_to_end_as_the_server_takes_to_drain(folder: str) -> None:
    told = settings(folder)
    drain = float(told["SEQSERVE_DRAIN_PAUSE"]) + float(told["SEQSERVE_DRAIN_GRACE"])
    closing = LINGER_S + CLOSE_S + TRACES_S
    assert _of_the_server(folder)["terminationGracePeriodSeconds"] > drain + closing
    assert "lifecycle" not in server(folder)


def test_kserve_gives_the_server_the_same_time() -> None:
    runtime, service = the("kserve", "ServingRuntime"), the("kserve", "InferenceService")
    told = {each["name"]: each["value"] for each in runtime["spec"]["containers"][0]["env"]}
    drain = float(told["SEQSERVE_DRAIN_PAUSE"]) + float(told["SEQSERVE_DRAIN_GRACE"])
    grace = service["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert grace > drain + LINGER_S + CLOSE_S + TRACES_S
    assert told.keys() <= {parameter.envvar for parameter in _command(serve).params}


def test_kserve_is_promised_none_of_its_protocols() -> None:
    runtime, service = the("kserve", "ServingRuntime"), the("kserve", "InferenceService")
    assert "protocolVersions" not in runtime["spec"]
    model = service["spec"]["predictor"]["model"]
    assert "protocolVersion" not in model
    [format_] = runtime["spec"]["supportedModelFormats"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"] == {"name": format_["name"], "version": format_["version"]}
    [claim] = [each["metadata"]["name"] for each in of_kind("base", "PersistentVolumeClaim")]
    assert model["storageUri"] == f"pvc://{claim}"


@pytest.mark.parametrize("folder", SERVERS)
def test_no_replica_goes_before_another_is_ready(folder: str) -> None:
    assert the(folder, "Deployment")["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }


@pytest.mark.parametrize("folder", SERVERS)
def test_ports_are_those_that_the_server_listens_on(folder: str) -> None:
    told = settings(folder)
    listening = {
        "grpc": int(told["SEQSERVE_ADDRESS"].rpartition(":")[2]),
        "metrics": int(told["SEQSERVE_METRICS_ADDRESS"].rpartition(":")[2]),
    }
    ports = {port["name"]: port["containerPort"] for port in server(folder)["ports"]}
    assert ports == listening
    service = the(folder, "Service")["spec"]
    assert service["clusterIP"] == "None"
    # Without an address of its own there is nobody to translate a port.
    assert {port["name"]: port["port"] for port in service["ports"]} == listening
    assert {port["targetPort"] for port in service["ports"]} == listening.keys()
    policy = the(folder, "NetworkPolicy")["spec"]
    admitted = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert admitted == listening.keys()
    for monitor in of_kind(folder, "ServiceMonitor"):
        assert {each["port"] for each in monitor["spec"]["endpoints"]} == {"metrics"}


@pytest.mark.parametrize("folder", SERVERS)
def test_all_that_selects_the_servers_pods_selects_them(folder: str) -> None:
    deployment = the(folder, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    spread = _of_the_server(folder)["topologySpreadConstraints"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        the(folder, "Service")["spec"]["selector"],
        the(folder, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        the(folder, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in spread),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    # And no other pods.
    for thing in (each for each in FOLDERS if each.startswith(("overlays", "scoring"))):
        for job in [*of_kind(thing, "Job"), *of_kind(thing, "CronJob")]:
            others = job["metadata"]["labels"]
            assert not any(selector.items() <= others.items() for selector in selectors)


def test_the_monitor_finds_the_service_and_the_rules_find_its_job() -> None:
    monitor = the("overlays/production", "ServiceMonitor")
    service = the("overlays/production", "Service")
    selector = monitor["spec"]["selector"]["matchLabels"]
    assert selector.items() <= service["metadata"]["labels"].items()
    # The operator names the job as the service, unless it is told otherwise.
    assert "jobLabel" not in monitor["spec"]
    jobs = {job for rule in _rules() for job in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert jobs == {service["metadata"]["name"]}


def test_the_autoscaler_leaves_the_number_of_replicas_to_itself() -> None:
    deployment = the("overlays/production", "Deployment")
    autoscaler = the("overlays/production", "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in deployment["spec"]
    assert autoscaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    budget = the("overlays/production", "PodDisruptionBudget")["spec"]
    assert autoscaler["minReplicas"] > budget["maxUnavailable"]
    # Clients of other languages find replicas that have come only when they connect anew.
    assert float(settings("overlays/production")["SEQSERVE_MAX_CONNECTION_AGE"]) > 0


def _adapter() -> Object:
    path = ROOT / "components/autoscaling/adapter-values.yaml"
    [rule] = yaml.safe_load(path.read_text())["rules"]["custom"]
    return dict(rule)


def _series() -> str:
    return str(_adapter()["seriesQuery"]).partition("{")[0]


def test_the_autoscaler_goes_by_a_metric_that_is_recorded() -> None:
    [metric] = the("overlays/production", "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == _adapter()["name"]["as"]
    assert _series() in {rule.get("record") for rule in _rules()}
    assert _adapter()["resources"]["overrides"] == {
        "namespace": {"resource": "namespace"},
        "pod": {"resource": "pod"},
    }


@needs_prometheus
def test_prometheus_answers_what_the_adapter_asks_it_of_pods(tmp_path: Path) -> None:
    """The adapter's own template, filled in as it does, over the rules as they are."""
    query = _adapter()["metricsQuery"]
    for word, value in {
        "<<.Series>>": _series(),
        "<<.LabelMatchers>>": 'namespace="seqserve",pod=~"a|b"',
        "<<.GroupBy>>": "pod",
    }.items():
        assert word in query
        query = query.replace(word, value)
    # Sequences a second of a pod and class that waited for 0.1 s at most, and for 0.2 s at most.
    came = {
        ("seqserve", "a", "interactive"): (0, 10),
        ("seqserve", "b", "interactive"): (10, 10),
        ("seqserve", "b", "bulk"): (0, 10),
        ("other", "c", "interactive"): (0, 10),
    }
    waits = [
        {
            "series": f'seqserve_queue_wait_seconds_bucket{{namespace="{space}", pod="{pod}", '
            f'model="speakers", service_class="{service_class}", le="{le}"}}',
            "values": f"0+{count}x20",
        }
        for (space, pod, service_class), (short, all_) in came.items()
        for le, count in [("0.1", short), ("0.2", all_), ("+Inf", all_)]
    ]
    test = {
        "rule_files": [str(RULES / "recording.yml")],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": waits,
                "promql_expr_test": [
                    {
                        "expr": f"round({query}, 0.001)",
                        "eval_time": "4m",
                        "exp_samples": [
                            {"labels": '{pod="a"}', "value": 0.199},
                            {"labels": '{pod="b"}', "value": 0.099},
                        ],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "adapter.yml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_rules_are_the_projects() -> None:
    script = ROOT / "components/monitoring/prometheus-rules.sh"
    printed = subprocess.run([script], check=True, capture_output=True, text=True).stdout
    objects = {each["metadata"]["name"]: each["spec"] for each in yaml.safe_load_all(printed)}
    files = {f"seqserve-{path.stem}": path for path in RULES.glob("*.yml")}
    assert objects.keys() == files.keys()
    for name, path in files.items():
        assert objects[name] == yaml.safe_load(path.read_text())


def _images_of_compose() -> set[str]:
    compose = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    images = [service["image"] for service in compose["services"].values() if "build" in service]
    return {re.sub(r"\$\{SEQSERVE_TAG:-(.+)\}", r"\1", image) for image in images}


def test_images_are_those_that_compose_builds() -> None:
    built_images = _images_of_compose()
    used = {container["image"] for _, pod in all_pods() for container in containers(pod)}
    assert built_images <= used
    # Built with other arguments, they say so behind the version.
    variants = {"-cuda", "-ray"}
    others = used - built_images
    assert others == {
        image + variant
        for image in built_images
        for variant in variants
        if image + variant in others
    }
    assert {image.rpartition("-")[2] for image in others} == {"cuda", "ray"}


@pytest.mark.parametrize("folder", SERVERS)
def test_files_that_settings_name_are_mounted_from_secrets(folder: str) -> None:
    volumes = {each["name"]: each for each in _of_the_server(folder)["volumes"]}
    mounts = {
        mount["mountPath"]: volumes[mount["name"]] for mount in server(folder)["volumeMounts"]
    }
    files = [Path(value) for value in variables(folder).values() if value.startswith("/etc/")]
    assert files or folder == "overlays/development"
    for file in files:
        secret = mounts[str(file.parent)]["secret"]
        assert (
            file.name in {item["key"] for item in secret.get("items", [])} or "items" not in secret
        )
        # Of group 10001, and nobody else's.
        assert secret["defaultMode"] == 0o440


def test_clients_are_told_how_to_be_let_in() -> None:
    [calls, _] = the("base", "NetworkPolicy")["spec"]["ingress"]
    [peer] = calls["from"]
    label = peer["podSelector"]["matchLabels"]
    nightly = the("scoring/nightly", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]
    assert label.items() <= nightly["metadata"]["labels"].items()
    [(name, value)] = label.items()
    assert f'{name}: "{value}"' in (PROJECT / "docs/kubernetes.md").read_text()


def test_a_job_may_reach_the_service_and_nobody_the_job() -> None:
    policy = the("scoring/data", "NetworkPolicy")["spec"]
    pod = the("scoring/nightly", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress", "Egress"], [])
    labels = the("base", "Deployment")["spec"]["template"]["metadata"]["labels"]
    [to] = [
        rule["to"][0]["podSelector"]["matchLabels"]
        for rule in policy["egress"]
        if rule["ports"] == [{"port": "grpc"}]
    ]
    assert to.items() <= labels.items()


def test_rays_dashboard_is_reached_by_its_own_pods_and_the_operator_alone() -> None:
    job = the("kuberay", "RayJob")["spec"]
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    templates = [
        job["submitterPodTemplate"],
        cluster["headGroupSpec"]["template"],
        *(group["template"] for group in cluster["workerGroupSpecs"]),
    ]
    assert len(templates) == len([*pods(the("kuberay", "RayJob"))])
    policy = the("kuberay", "NetworkPolicy")["spec"]
    selector = policy["podSelector"]["matchLabels"]
    for template in templates:
        assert selector.items() <= template["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    [rule] = policy["ingress"]
    own, operator = rule["from"]
    assert own == {"podSelector": {"matchLabels": selector}}
    [(name, value)] = operator["podSelector"]["matchLabels"].items()
    assert f"`{name}: {value}`" in (PROJECT / "docs/kubernetes.md").read_text()
    others = [each for folder in FOLDERS if folder != "kuberay" for each in built(folder)]
    assert not [pod for each in others for pod in _labels(each) if selector.items() <= pod.items()]


def _labels(part: object) -> Iterator[dict[str, str]]:
    """Of pods."""
    if isinstance(part, dict):
        if "template" in part and "labels" in part["template"].get("metadata", {}):
            yield part["template"]["metadata"]["labels"]
        for each in part.values():
            yield from _labels(each)


def test_a_ray_jobs_submitter_is_no_other_job() -> None:
    """KubeRay names it as the RayJob."""
    names = [each["metadata"]["name"] for folder in FOLDERS for each in of_kind(folder, "Job")]
    assert the("kuberay", "RayJob")["metadata"]["name"] not in names


def test_kserves_replicas_share_the_key_of_live_sequences() -> None:
    runtime = the("kserve", "ServingRuntime")["spec"]
    [container] = runtime["containers"]
    told = {each["name"]: each["value"] for each in container["env"]}
    file = Path(told["SEQSERVE_TOKEN_KEY_FILE"])
    assert str(file) == settings("base")["SEQSERVE_TOKEN_KEY_FILE"]
    [name] = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == str(file.parent)]
    [volume] = [each for each in runtime["volumes"] if each["name"] == name]
    page = (PROJECT / "docs/kubernetes.md").read_text()
    assert f"generic {volume['secret']['secretName']} --from-literal={file.name}=" in page
