"""Holds objects of custom kinds against their projects' own types.

Runs in an environment of its own, which has KServe's SDK and the Prometheus operator's models:
`make lint-deploy` makes it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from deploy.lint import kustomizations

KSERVE = {
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "V1alpha1ServingRuntime",
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
}
PROMETHEUS_OPERATOR = {
    ("monitoring.coreos.com/v1", "PrometheusRule"): "PrometheusRule",
    ("monitoring.coreos.com/v1", "ServiceMonitor"): "ServiceMonitor",
}
RULES = kustomizations.KUBERNETES / "components" / "monitoring" / "prometheus-rules.sh"
_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "datetime": (str,),
}


def problems(thing: dict[str, Any]) -> Iterator[str] | None:
    """What the types of an object's project do not admit; None where there are none of its kind."""
    key = (thing["apiVersion"], thing["kind"])
    if key in KSERVE:
        return _against_sdk(thing, KSERVE[key], "")
    if key in PROMETHEUS_OPERATOR:
        return _against_models(thing, PROMETHEUS_OPERATOR[key])
    return None


def _part(package: str, name: str) -> ModuleType:
    """A module of a package, without what the package itself would import.

    That would be a web server and all that it needs, or as many types again, of another version.
    """
    if package not in sys.modules:
        found = importlib.util.find_spec(package)
        assert found is not None, "make lint-deploy installs it"
        bare = ModuleType(package)
        bare.__path__ = list(found.submodule_search_locations or ())
        sys.modules[package] = bare
    return importlib.import_module(f"{package}.{name}")


def _against_sdk(value: object, kind: str, path: str) -> Iterator[str]:
    """By the types that the SDK's generated classes say their attributes have."""
    if nested := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{path}: a list is needed"
            return
        for index, each in enumerate(value):
            yield from _against_sdk(each, nested[1], f"{path}[{index}]")
    elif nested := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            yield f"{path}: a map is needed"
            return
        for name, each in value.items():
            yield from _against_sdk(each, nested[1], f"{path}.{name}")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (kind == "int" and isinstance(value, bool)):
            yield f"{path}: {value!r} is no {kind}"
    elif kind != "object":
        yield from _against_class(value, kind, path)


def _against_class(value: object, kind: str, path: str) -> Iterator[str]:
    from kubernetes import client

    cls = getattr(_part("kserve", "models"), kind, None)
    if cls is None:  # Kubernetes' own, by pydantic
        yield from _refusals(getattr(client, kind), value, path)
        return
    if not isinstance(value, dict):
        yield f"{path}: {kind} is a map"
        return
    names = {json_name: name for name, json_name in cls.attribute_map.items()}
    for key in value.keys() - names.keys():
        yield f"{path}.{key}: {kind} has no such field"
    told = {names[key]: each for key, each in value.items() if key in names}
    for name, each in told.items():
        yield from _against_sdk(each, cls.openapi_types[name], f"{path}.{cls.attribute_map[name]}")
    try:
        cls(**told)  # asks for what is required
    except ValueError as error:
        yield f"{path}: {error}"


def _against_models(thing: dict[str, Any], kind: str) -> Iterator[str]:
    """These take unknown fields and drop them: so what is gone was wrong."""
    cls = getattr(_part("cloudcoil.models.prometheus_operator", "v1"), kind)
    refused = list(_refusals(cls, thing, ""))
    yield from refused
    if not refused:
        kept = cls.model_validate(thing).model_dump(mode="json", by_alias=True, exclude_unset=True)
        yield from _gone(thing, kept, "")


def _refusals(cls: Any, value: object, path: str) -> Iterator[str]:  # noqa: ANN401
    from pydantic import ValidationError

    try:
        cls.model_validate(value)
    except ValidationError as error:
        for each in error.errors():
            yield f"{'.'.join([path, *map(str, each['loc'])])}: {each['msg']}"


def _gone(before: object, after: object, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name, each in before.items():
            if name in after:
                yield from _gone(each, after[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}: there is no such field"
    elif isinstance(before, list) and isinstance(after, list):
        for index, (each, other) in enumerate(zip(before, after, strict=True)):
            yield from _gone(each, other, f"{path}[{index}]")


def _objects(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for folder, thing in kustomizations.all_objects(root):
        yield str(folder.relative_to(root)), thing
    printed = subprocess.run([RULES], check=True, capture_output=True, text=True).stdout
    for thing in yaml.safe_load_all(printed):
        yield RULES.name, thing


def main() -> int:
    """Prints what is wrong, a line each; 1 where something is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=kustomizations.KUBERNETES)
    root = parser.parse_args().root
    seen, wrong = set(), 0
    try:
        for place, thing in _objects(root):
            found = problems(thing)
            if found is None:
                continue
            seen.add(thing["kind"])
            for problem in found:
                wrong += 1
                sys.stderr.write(f"{place}: {kustomizations.title(thing)}: {problem}\n")
    except kustomizations.CannotBuildError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{', '.join(sorted(seen))}: {wrong} problems\n")
    return int(bool(wrong) or not seen)


if __name__ == "__main__":
    sys.exit(main())
