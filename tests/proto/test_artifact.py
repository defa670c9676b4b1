"""What lies in a model repository, and what is refused there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve import artifact
from seqserve.errors import InvalidArtifact
from seqserve.v1.manifest_pb2 import (
    ArtifactFile,
    FeatureInput,
    Graph,
    InputSpec,
    Limits,
    ModelManifest,
    Parity,
    StateTensor,
)

CONTENT = {artifact.MODEL_FILE: b"graph", artifact.GOLDEN_FILE: b"golden", "report.html": b""}


def sound_manifest() -> ModelManifest:
    """The smallest manifest that is accepted in `walks/3`."""
    return ModelManifest(
        format_version=1,
        name="walks",
        version=3,
        input=InputSpec(features=FeatureInput(size=2, mean=[0, 0], scale=[1, 1])),
        labels=["walk", "run"],
        graph=Graph(
            opset=17, minimum_rows=1, state=[StateTensor(name="h", dims=[1, -1, 8], initial=0)]
        ),
        limits=Limits(max_steps=100),
        parity=Parity(tolerance=1e-5),
        files=[
            ArtifactFile(path=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in CONTENT.items()
        ],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound artifact, `walks/3`."""
    folder = tmp_path / "walks" / "3"
    folder.mkdir(parents=True)
    artifact.write_manifest(sound_manifest(), folder)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", ["a", "7", "Walks-2.onnx_x", "a" * 128])
def test_a_name_of_the_allowed_characters_may_name_a_model(name: str) -> None:
    assert artifact.is_model_name(name)
    assert artifact.version_path(Path("models"), name, 12) == Path("models", name, "12")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../walks", "a/b", "/a", "-a", "_a", ".a", "a b", "a\n", "a\0", "é", "a" * 129],
)
def test_any_other_name_is_refused(name: str) -> None:
    assert not artifact.is_model_name(name)
    with pytest.raises(InvalidArtifact, match="cannot name a model: 1 to 128 of A-Z a-z 0-9"):
        artifact.version_path(Path("models"), name, 1)


@given(st.text())
def test_no_name_leads_out_of_the_repository(name: str) -> None:
    if artifact.is_model_name(name):
        assert artifact.version_path(Path("models"), name, 1).parts == ("models", name, "1")


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_is_positive(version: int) -> None:
    with pytest.raises(InvalidArtifact, match="a positive integer is needed"):
        artifact.version_path(Path("models"), "walks", version)


def test_models_are_the_folders_that_may_be_one(tmp_path: Path) -> None:
    for name in ("walks", "Runs", ".hidden", "has space"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes").write_text("a file")
    assert artifact.models(tmp_path) == ["Runs", "walks"]


def test_versions_are_the_folders_with_a_positive_number_in_plain_form(tmp_path: Path) -> None:
    for name in ("10", "9", "0", "01", "+1", "-1", "1.0", "².", "٣", "2.writing", ".tmp-3"):
        (tmp_path / "walks" / name).mkdir(parents=True)
    (tmp_path / "walks" / "11").write_text("a file")
    assert artifact.versions(tmp_path, "walks") == [9, 10]


def test_a_model_without_a_folder_has_no_versions(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert artifact.versions(tmp_path, "walks") == []
    assert artifact.versions(tmp_path, "file") == []


def test_a_manifest_comes_back_as_it_was_written(folder: Path) -> None:
    assert artifact.read_manifest(folder) == sound_manifest()


def test_a_manifest_is_json_in_the_names_of_the_proto(folder: Path) -> None:
    text = (folder / artifact.MANIFEST_FILE).read_text(encoding="utf-8")
    assert '"format_version": 1' in text
    assert '"max_steps": "100"' in text


def test_the_digest_is_that_of_the_manifest(folder: Path) -> None:
    data = (folder / artifact.MANIFEST_FILE).read_bytes()
    assert artifact.digest(folder) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "manifest.json: No such file or directory"),
        (b"", "manifest.json: not a manifest"),
        (b"{", "manifest.json: not a manifest"),
        (b"3", "manifest.json: not a manifest"),
        (b'{"format_version": "one"}', "manifest.json: not a manifest"),
        (b'{"surprise": 1}', 'no field named "surprise"'),
        (b"\xff\xfe", "manifest.json: not a manifest"),
        (b"{}", "format_version is 0; this build reads 1"),
    ],
    ids=[
        "missing",
        "empty",
        "cut off",
        "a number",
        "type",
        "unknown field",
        "not UTF-8",
        "nothing",
    ],
)
def test_what_is_no_manifest_is_refused(folder: Path, content: bytes | None, message: str) -> None:
    path = folder / artifact.MANIFEST_FILE
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidArtifact, match=message):
        artifact.read_manifest(folder)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_manifest_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / artifact.MANIFEST_FILE).write_bytes(content)
    with pytest.raises(InvalidArtifact):
        artifact.read_manifest(folder)


def _no_labels(manifest: ModelManifest) -> None:
    del manifest.labels[1:]


Change = Callable[[ModelManifest], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "format_version", 2), "format_version is 2; this build reads 1"),
        (lambda m: m.ClearField("input"), "input has no kind"),
        (lambda m: m.input.features.ClearField("size"), "input.features.size is 0; at least 1"),
        (_no_labels, "labels has 1; 2 or more are needed"),
        (lambda m: m.labels.append("walk"), "labels names a class twice"),
        (lambda m: m.files.append(m.files[0]), "files lists a path twice"),
        (lambda m: m.ClearField("limits"), "limits.max_steps is 0; at least 1"),
        (lambda m: m.ClearField("parity"), "parity.tolerance is not above 0"),
        (lambda m: setattr(m.graph, "minimum_rows", 3), "minimum_rows is neither 1 nor 2"),
        (lambda m: m.graph.ClearField("minimum_rows"), "minimum_rows is neither 1 nor 2"),
        (lambda m: m.graph.state[0].dims.append(-1), "do not name the batch axis"),
        (lambda m: m.graph.state[0].ClearField("dims"), "do not name the batch axis"),
        (lambda m: setattr(m, "name", "runs"), "says it is runs version 3, but lies in walks/3"),
        (lambda m: setattr(m, "version", 4), "says it is walks version 4, but lies in walks/3"),
    ],
)
def test_a_manifest_that_contradicts_itself_or_its_folder_is_refused_with_the_reason(
    folder: Path, change: Change, message: str
) -> None:
    manifest = sound_manifest()
    change(manifest)
    artifact.write_manifest(manifest, folder)
    with pytest.raises(InvalidArtifact, match=message) as caught:
        artifact.read_manifest(folder)
    assert str(folder / artifact.MANIFEST_FILE) in str(caught.value)


def test_the_files_of_a_sound_artifact_hold(folder: Path) -> None:
    artifact.check_files(artifact.read_manifest(folder), folder)


def _tamper(path: Path) -> None:
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def _link(path: Path) -> None:
    target = path.with_suffix(".elsewhere")
    path.rename(target)
    path.symlink_to(target)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", [artifact.MODEL_FILE, artifact.GOLDEN_FILE])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        pytest.param(_tamper, "differs from what was published", id="tampered"),
        pytest.param(lambda p: p.write_bytes(b""), "differs from what was published", id="emptied"),
        pytest.param(lambda p: p.unlink(), "it is no plain file there", id="missing"),
        pytest.param(_link, "it is no plain file there", id="a link to the very file"),
        pytest.param(_folder, "it is no plain file there", id="a folder"),
    ],
)
def test_a_file_that_is_not_what_was_published_is_named(
    folder: Path, name: str, harm: Callable[[Path], object], message: str
) -> None:
    harm(folder / name)
    with pytest.raises(InvalidArtifact, match=message) as caught:
        artifact.check_files(artifact.read_manifest(folder), folder)
    assert str(folder / name) in str(caught.value)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / artifact.MODEL_FILE
    is_file = Path.is_file

    def look_then_swap(self: Path) -> bool:
        found = is_file(self)
        if self == path:
            path.unlink()
            os.mkfifo(path)
        return found

    monkeypatch.setattr(Path, "is_file", look_then_swap)
    with pytest.raises(InvalidArtifact, match="is no plain file"):
        artifact.check_files(artifact.read_manifest(folder), folder)


def test_what_is_kept_is_what_was_compared(folder: Path) -> None:
    manifest = artifact.read_manifest(folder)
    kept = artifact.check_files(manifest, folder, keep=(artifact.MODEL_FILE, "report.html"))
    assert kept == {name: CONTENT[name] for name in (artifact.MODEL_FILE, "report.html")}
    assert artifact.read_checked(manifest, folder, artifact.GOLDEN_FILE) == b"golden"


@pytest.mark.parametrize("path", ["../model.onnx", "sub/model.onnx", "", "/etc/hostname"])
def test_a_file_outside_the_folder_is_refused_though_it_is_the_same(
    folder: Path, path: str
) -> None:
    data = CONTENT[artifact.MODEL_FILE]
    (folder / "sub").mkdir()
    for place in (folder.parent / "model.onnx", folder / "sub" / "model.onnx"):
        place.write_bytes(data)
    manifest = sound_manifest()
    manifest.files.add(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(InvalidArtifact, match="it is no plain file there"):
        artifact.check_files(manifest, folder)


@pytest.mark.parametrize("index", [0, 1])
def test_a_manifest_that_lists_no_graph_or_no_golden_set_is_refused(
    folder: Path, index: int
) -> None:
    manifest = sound_manifest()
    missing = manifest.files.pop(index).path
    with pytest.raises(InvalidArtifact, match=f"lists no {missing}"):
        artifact.check_files(manifest, folder)
