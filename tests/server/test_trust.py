"""A repository that others may write to: signatures, links, files that are swapped."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from seqserve import artifact, signature
from seqserve.errors import InvalidArtifact
from seqserve.v1.catalog_pb2 import ModelState
from seqserve.v1.repository_pb2 import LoadModelRequest, ReloadRepositoryRequest
from seqserve_server.errors import InvalidSetting
from seqserve_server.models import loading
from seqserve_server.models.sessions import Session, opener
from seqserve_server.models.trust import Trust
from seqserve_server.models.version_policy import parse
from seqserve_server.options import ExecutionProvider

if TYPE_CHECKING:
    from tests.server.conftest import RunServer

PublishAs = Callable[[Path, Path, int], None]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public half is in `trusted.pem`."""
    public = signature.new_key(tmp_path / "key.pem")
    (tmp_path / "trusted.pem").write_bytes(public)
    return tmp_path / "key.pem"


def test_only_signed_versions_are_served_where_keys_are_trusted(
    run_server: RunServer, versions: Path, key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signature.new_key(key.with_name("other.pem"))
    signature.sign(versions / "gru" / "1", key)
    signature.sign(versions / "gru" / "2", key.with_name("other.pem"))

    with (
        caplog.at_level(logging.ERROR),
        run_server(
            versions, trusted_keys=key.with_name("trusted.pem"), version_policy=parse(["all"])
        ) as server,
    ):
        assert server.ready() == ["gru 1"]
        messages = {(each.name, each.version): each.message for each in server.listed()}

    assert "manifest.json.sig: is missing; sign it with: seqserve sign " in messages["gru", 3]
    assert "manifest.json.sig: is not of a key that is trusted here" in messages["gru", 2]
    assert "refused gru version 3" in caplog.text


def test_keys_are_trusted_and_withdrawn_without_a_restart(
    run_server: RunServer, versions: Path, key: Path
) -> None:
    other = signature.new_key(key.with_name("other.pem"))
    signature.sign(versions / "gru" / "3", key)
    signature.sign(versions / "lstm" / "1", key.with_name("other.pem"))
    trusted = key.with_name("trusted.pem")
    with run_server(versions, trusted_keys=trusted, operator=True) as server:
        assert server.ready() == ["gru 3"]

        trusted.write_bytes(other)
        server.operations.LoadModel(LoadModelRequest(model_name="lstm"))
        assert server.ready() == ["gru 3", "lstm 1"]  # what is served stays
        failed = server.failure(
            lambda: server.operations.LoadModel(LoadModelRequest(model_name="gru", model_version=2))
        )

    assert "is missing; sign it" in failed.message


def test_an_unsigned_graph_is_not_even_opened(versions: Path, key: Path) -> None:
    opened = []

    def open_session(model: bytes) -> Session:
        opened.append(model)
        raise AssertionError

    with pytest.raises(InvalidArtifact, match="is missing"):
        loading.load(
            versions / "gru" / "3",
            open_session,
            signed=Trust(key.with_name("trusted.pem")).check,
        )
    assert not opened


def test_keys_that_cannot_be_trusted_keep_the_server_from_starting(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSetting, match=r"--trusted-keys .*: No such file"):
        Trust(tmp_path / "none")
    with pytest.raises(InvalidSetting, match=r"--trusted-keys .*: holds no public key in PEM"):
        Trust(key)
    for name in [each for each in sys.modules if each.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidSetting, match=r"pip install 'seqserve\[signing\]'"):
        Trust(tmp_path / "trusted.pem")


def _version_outside(root: Path, elsewhere: Path) -> None:
    (root / "gru" / "3").rename(elsewhere / "3")
    (root / "gru" / "3").symlink_to(elsewhere / "3")


def _model_outside(root: Path, elsewhere: Path) -> None:
    (root / "gru").rename(elsewhere / "gru")
    (root / "gru").symlink_to(elsewhere / "gru")


@pytest.mark.parametrize("lead", [_version_outside, _model_outside])
def test_a_link_out_of_the_repository_is_refused_without_saying_where_it_leads(
    run_server: RunServer, versions: Path, tmp_path: Path, lead: Callable[[Path, Path], None]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lead(versions, elsewhere)

    with run_server(versions) as server:
        [status] = [each for each in server.listed("gru") if each.version == 3]
        assert "gru 3" not in server.ready()

    assert status.state == ModelState.MODEL_STATE_FAILED
    assert status.message == "gru/3: is a link that leads out of the repository"


def test_a_version_that_links_to_itself_is_none(run_server: RunServer, versions: Path) -> None:
    shutil.rmtree(versions / "gru" / "3")
    (versions / "gru" / "3").symlink_to(versions / "gru" / "3")

    with run_server(versions) as server:
        assert server.ready() == ["gru 2", "lstm 1"]


def test_a_link_within_the_repository_and_to_it_may_be(
    run_server: RunServer, versions: Path, tmp_path: Path
) -> None:
    (versions / "gru" / "3").rename(versions / "kept")
    (versions / "gru" / "3").symlink_to(versions / "kept")
    (tmp_path / "link").symlink_to(versions)

    with run_server(tmp_path / "link") as server:
        assert "gru 3" in server.ready()


@pytest.mark.parametrize("name", ["..", "../models", "gru/3", "/etc", ".", "", "gru\0", "-gru"])
def test_no_name_in_a_call_leads_out_of_the_repository(
    run_server: RunServer, models: Path, name: str
) -> None:
    with run_server(models, operator=True) as server:
        for call in (server.operations.LoadModel, server.operations.UnloadModel):
            failed = server.failure(lambda call=call: call(LoadModelRequest(model_name=name)))  # type: ignore[misc]
            assert failed.code.name == "INVALID_ARGUMENT"
        assert server.operations.ReloadRepository(ReloadRepositoryRequest()).models


def _files(folder: Path) -> Sequence[str]:
    return [file.path for file in artifact.read_manifest(folder).files]


def test_a_change_of_any_listed_file_is_seen(versions: Path) -> None:
    folder = versions / "gru" / "3"
    present = {path.name for path in folder.iterdir()}
    assert present == {*_files(folder), artifact.MANIFEST_FILE}  # nothing is left out
    for name in _files(folder):
        path = folder / name
        before = path.read_bytes()
        changed = bytearray(before)
        changed[-1] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InvalidArtifact, match=f"{name}: differs from what was published"):
            loading.load(folder, opener(ExecutionProvider.CPU))
        path.write_bytes(before)

    loading.load(folder, opener(ExecutionProvider.CPU))


def test_a_graph_that_is_swapped_after_it_was_proved_is_not_opened(versions: Path) -> None:
    folder = versions / "gru" / "3"

    def prove_then_swap(folder: Path) -> loading.Proven:
        proven = loading.attempt(folder, opener(ExecutionProvider.CPU))
        shutil.copy(versions / "gru" / "2" / artifact.MODEL_FILE, folder)
        return proven

    def never(_: bytes) -> Session:
        raise AssertionError

    with pytest.raises(InvalidArtifact, match=r"model.onnx: differs from what was published"):
        loading.load(folder, never, prove_then_swap)


def test_each_file_is_hashed_once(versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = versions / "gru" / "3"
    opened: list[str] = []
    opening = os.open

    def counting(path: Path, flags: int) -> int:
        opened.append(Path(path).name)
        return opening(path, flags)

    monkeypatch.setattr(os, "open", counting)
    proven = loading.attempt(folder, opener(ExecutionProvider.CPU))
    assert sorted(opened) == sorted([*_files(folder), artifact.MANIFEST_FILE])

    opened.clear()
    loading.load(folder, opener(ExecutionProvider.CPU), lambda folder: proven)
    assert opened == [artifact.MANIFEST_FILE, artifact.MODEL_FILE]


def test_files_that_are_swapped_once_they_were_read_change_nothing(versions: Path) -> None:
    folder = versions / "gru" / "3"
    sound, _ = loading.load(folder, opener(ExecutionProvider.CPU))

    def swap_then_open(model: bytes) -> Session:
        for name in (*_files(folder), artifact.MANIFEST_FILE):
            (folder / name).write_bytes(b"other")
        return opener(ExecutionProvider.CPU)(model)

    model, proof = loading.load(folder, swap_then_open)

    assert model.digest == sound.digest
    assert proof.sequences
