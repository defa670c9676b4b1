"""Holds what is applied to a cluster against Kubernetes' own schemas.

Kinds that are not Kubernetes' own are held against their types by `custom_resources`, and here,
with --crds, against a cluster's definitions: kubectl get crds --output yaml > FOLDER/crds.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

from deploy.lint import kustomizations

OLDEST, NEWEST = "1.31", "1.37"
"""Of Kubernetes: the first that has all that is used, and the last that there are schemas of."""

CUSTOM = frozenset({"InferenceService", "RayJob", "ServiceMonitor", "ServingRuntime"})
Schemas = Mapping[tuple[str, str], dict[str, Any]]
"""By apiVersion and kind."""


def problems(thing: dict[str, Any], definitions: Schemas) -> Iterator[str]:
    """What a cluster would refuse of an object, or quietly drop.

    Args:
        thing: The object.
        definitions: Of custom kinds.
    """
    known = definitions.get((thing["apiVersion"], thing["kind"]))
    if known:
        for error in Draft202012Validator(known).iter_errors(thing):
            yield f"{error.json_path}: {error.message}"
    if thing["kind"] in CUSTOM:
        for template in pod_templates(thing):
            yield from _builtin({**template, "apiVersion": "v1", "kind": "PodTemplate"})
    elif not known:
        yield from _builtin(thing)


def pod_templates(part: object) -> Iterator[dict[str, Any]]:
    """The pods that an object of a custom kind asks for."""
    if isinstance(part, dict):
        for name in ("template", "submitterPodTemplate"):
            if isinstance(part.get(name), dict):
                yield {"metadata": {"name": "pod"}, "template": part[name]}
        for each in part.values():
            yield from pod_templates(each)
    elif isinstance(part, list):
        for each in part:
            yield from pod_templates(each)


def _builtin(thing: dict[str, Any]) -> Iterator[str]:
    for version in (OLDEST, NEWEST):
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"Kubernetes {version} has no {thing['kind']} in {thing['apiVersion']}"


def definitions_in(folder: Path) -> Schemas:
    """The schemas of all CustomResourceDefinitions in a folder's YAML files."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            for crd in (document or {}).get("items", [document]):
                if not crd or crd.get("kind") != "CustomResourceDefinition":
                    continue
                for version in crd["spec"]["versions"]:
                    name = f"{crd['spec']['group']}/{version['name']}"
                    schema = version["schema"]["openAPIV3Schema"]
                    found[name, crd["spec"]["names"]["kind"]] = strict(schema)
    return found


def strict(schema: Any) -> Any:  # noqa: ANN401
    """A structural schema as JSON Schema that refuses what a cluster would drop."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    told = dict(schema)
    if told.pop("x-kubernetes-int-or-string", False):
        told.pop("type", None)
    if told.pop("nullable", False) and "type" in told:
        told["type"] = [told["type"], "null"]
    open_ended = told.pop("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in told:
        told["properties"] = {name: strict(each) for name, each in told["properties"].items()}
        if not open_ended:
            told.setdefault("additionalProperties", False)
    for word in ("items", "additionalProperties", "allOf", "anyOf", "oneOf"):
        if word in told:
            told[word] = strict(told[word])
    return told


def main() -> int:
    """Prints what is wrong, a line each; 1 where something is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=kustomizations.KUBERNETES)
    parser.add_argument("--crds", type=Path, help="a folder of CustomResourceDefinitions")
    options = parser.parse_args()
    definitions = definitions_in(options.crds) if options.crds else {}
    if options.crds and not definitions:
        sys.exit(
            f"{options.crds} has no CustomResourceDefinition in a file *.yaml: "
            f"kubectl get crds --output yaml >{options.crds / 'crds.yaml'}"
        )
    seen, wrong = 0, 0
    try:
        for folder, thing in kustomizations.all_objects(options.root):
            seen += 1
            for problem in problems(thing, definitions):
                wrong += 1
                name = kustomizations.title(thing)
                sys.stderr.write(f"{folder.relative_to(options.root)}: {name}: {problem}\n")
    except kustomizations.CannotBuildError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{seen} objects, {wrong} problems\n")
    return int(bool(wrong) or not seen)


if __name__ == "__main__":
    sys.exit(main())
