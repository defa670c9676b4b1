"""The init container's copy of a model repository, run as it stands in the ConfigMap."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from seqserve import artifact
from tests.deploy.manifests import Object, of_kind, the

if TYPE_CHECKING:
    from tests.conftest import ModelRepository

FOLDER = "overlays/object-store"


def _init_container() -> Object:
    pod = the(FOLDER, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["initContainers"]
    return dict(container)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """As it is mounted."""
    [data] = [each["data"] for each in of_kind(FOLDER, "ConfigMap") if "fetch.py" in each["data"]]
    path = tmp_path / "fetch.py"
    path.write_text(data["fetch.py"])
    return path


@pytest.fixture(scope="module")
def models(repository: ModelRepository) -> Path:
    return repository(speakers={"cell": "gru"}, other={"cell": "lstm"})


def run(
    script: Path, url: str, folder: Path, options: str = "{}", python_path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The container's own command, with its variables filled in."""
    python, path, *words = _init_container()["command"]
    assert (python, Path(path).name) == ("python3", script.name)
    places = {"$(MODELS_URL)": url, "/models": str(folder)}
    return subprocess.run(
        [sys.executable, script, *(places[word] for word in words)],
        env=os.environ
        | {"STORAGE_OPTIONS": options}
        | ({"PYTHONPATH": str(python_path)} if python_path else {}),
        capture_output=True,
        text=True,
        check=False,
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("end", ["", "/"])
def test_a_repository_is_copied_whole(script: Path, models: Path, tmp_path: Path, end: str) -> None:
    target = tmp_path / "models"
    target.mkdir()
    done = run(script, f"file://{models}{end}", target)
    assert done.returncode == 0, done.stderr
    assert _files(target) == _files(models)
    assert artifact.versions(target, "speakers") == [1]


def test_a_copy_that_was_cut_off_is_made_good(script: Path, models: Path, tmp_path: Path) -> None:
    target = tmp_path / "models"
    assert run(script, f"file://{models}", target).returncode == 0
    (target / "speakers/1/model.onnx").write_bytes(b"half")
    (target / "other/1/manifest.json").unlink()
    assert run(script, f"file://{models}", target).returncode == 0
    assert _files(target) == _files(models)


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        pytest.param("file:///nowhere/models", "{}", "is empty or not there", id="nothing there"),
        pytest.param("nostore://models", "{}", "cannot be copied", id="no such store"),
        pytest.param("file:///", "{", "cannot be copied", id="options that are no JSON"),
    ],
)
def test_a_store_that_gives_nothing_is_told_in_a_line(
    script: Path, tmp_path: Path, url: str, options: str, said: str
) -> None:
    done = run(script, url, tmp_path / "models", options)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "said", ["no keys were found", "tried three times:\n\n  nobody answers", ""]
)
def test_errors_of_a_stores_own_kind_are_told_in_a_line(
    script: Path, tmp_path: Path, said: str
) -> None:
    """A filesystem as packages of stores register theirs, whose errors are no OSError."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "astore.py").write_text(
        "from fsspec import AbstractFileSystem\n\n"
        "class NotReachedError(Exception): pass\n\n"
        "class Store(AbstractFileSystem):\n"
        "    protocol = 'astore'\n"
        "    def find(self, *args, **kwargs):\n"
        f"        raise NotReachedError({said!r})\n"
    )
    info = package / "astore-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: astore\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fsspec.specs]\nastore = astore:Store\n")
    done = run(script, "astore://models/speakers", tmp_path / "models", python_path=package)
    assert done.returncode == 1
    why = " ".join(said.split()) or "NotReachedError"
    assert done.stderr == f"astore://models/speakers cannot be copied: {why}\n"


def test_it_copies_to_where_the_server_reads() -> None:
    pod = the(FOLDER, "Deployment")["spec"]["template"]["spec"]
    [server] = pod["containers"]
    places = [
        {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        for container in (_init_container(), server)
    ]
    assert places[0]["models"] == places[1]["models"] == server["args"][-1]
    assert not of_kind(FOLDER, "PersistentVolumeClaim")
    path = Path(_init_container()["command"][1])
    assert str(path.parent) == places[0]["fetch"]
