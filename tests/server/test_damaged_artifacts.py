"""Artifacts that must not be served."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from seqserve import artifact
from seqserve.golden import GoldenSet
from seqserve.v1.catalog_pb2 import ModelState
from seqserve_server.models import loading
from seqserve_server.models.version_policy import parse

if TYPE_CHECKING:
    from tests.server.conftest import RunServer

MakeSequences = Callable[..., list[NDArray[np.float32]]]


def _flip_a_bit(folder: Path) -> None:
    model = bytearray((folder / artifact.MODEL_FILE).read_bytes())
    model[len(model) // 2] ^= 1
    (folder / artifact.MODEL_FILE).write_bytes(model)


def _lose_the_golden_set(folder: Path) -> None:
    (folder / artifact.GOLDEN_FILE).unlink()


def _replace_the_model_by_a_link(folder: Path) -> None:
    target = folder.parent / "elsewhere.onnx"
    (folder / artifact.MODEL_FILE).rename(target)
    (folder / artifact.MODEL_FILE).symlink_to(target)


def _garble_the_manifest(folder: Path) -> None:
    (folder / artifact.MANIFEST_FILE).write_text("{")


def _put_no_graph(folder: Path) -> None:
    (folder / artifact.MODEL_FILE).write_bytes(b"no graph")
    _list_files_as_they_are(folder)


def _claim_other_answers(folder: Path) -> None:
    golden = GoldenSet.load(folder / artifact.GOLDEN_FILE)
    other = GoldenSet(golden.pool, golden.logits + 1e-3, golden.probabilities, golden.cases)
    other.save(folder / artifact.GOLDEN_FILE)
    _list_files_as_they_are(folder)


def _move_weights_to_another_file(folder: Path) -> None:
    path = str(folder / artifact.MODEL_FILE)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    os.chdir(folder)  # where onnxruntime looks for the file
    _list_files_as_they_are(folder)


DAMAGE = {
    "a flipped bit": (_flip_a_bit, "model.onnx: differs from what was published"),
    "no golden set": (_lose_the_golden_set, "golden.npz: the manifest lists it"),
    "a link": (_replace_the_model_by_a_link, "model.onnx: the manifest lists it"),
    "no manifest": (_garble_the_manifest, "manifest.json: not a manifest"),
    "no graph": (_put_no_graph, "model.onnx: onnxruntime does not accept it"),
    "external data": (_move_weights_to_another_file, "model.onnx: keeps weights in other files"),
    "other answers": (_claim_other_answers, "differs from torch by 0.001"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_version_is_refused_while_others_are_served(
    run_server: RunServer,
    versions: Path,
    make_sequences: MakeSequences,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    words: str,
) -> None:
    monkeypatch.chdir(versions)  # and back
    damage(versions / "lstm" / "1")

    with (
        caplog.at_level(logging.ERROR),
        run_server(versions, version_policy=parse(["all"])) as server,
    ):
        [status] = server.listed("lstm")
        with pytest.raises(grpc.RpcError) as raised:
            server.classify("lstm", make_sequences(3))
        answers = server.classify("gru", make_sequences(3)).answers
        health = [server.health(service) for service in ("", "lstm", "lstm/1", "gru/3")]

    assert status.state == ModelState.MODEL_STATE_FAILED
    assert words in status.message
    assert str(versions) not in status.message
    assert re.search(f"refused lstm version 1: .*{re.escape(words)}", caplog.text)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert answers.labels
    assert health == ["SERVING", "NOT_SERVING", "NOT_SERVING", "SERVING"]


def test_the_newest_sound_version_is_served_where_the_newest_is_damaged(
    run_server: RunServer, versions: Path
) -> None:
    _flip_a_bit(versions / "gru" / "3")

    with run_server(versions) as server:
        states = {status.version: status.state for status in server.listed("gru")}

    assert states == {3: ModelState.MODEL_STATE_FAILED, 2: ModelState.MODEL_STATE_READY}


@pytest.mark.parametrize(
    "tag",
    [
        pytest.param(b"\x0a", id="plain"),
        pytest.param(b"\x8a\x00", id="overlong"),
        pytest.param(b"\x8a\x80\x80\x80\x10", id="overlong, with bits that are ignored"),
        pytest.param(b"\x8a" + 8 * b"\x80" + b"\x00", id="ten bytes"),
        pytest.param(b"\x12\x01w\x0a", id="after the value"),
    ],
)
@pytest.mark.parametrize(
    "length",
    [
        pytest.param(b"\x08", id="plain"),
        pytest.param(b"\x88\x00", id="overlong"),
        pytest.param(b"\x88" + 8 * b"\x80" + b"\x00", id="ten bytes"),
    ],
)
@pytest.mark.parametrize("before", [0, loading._PIECE_BYTES - 4], ids=["", "between two pieces"])
def test_weights_in_other_files_are_found_however_their_key_is_spelt(
    tag: bytes, length: bytes, before: int
) -> None:
    graph = bytes(before) + tag + length + b"location"
    assert loading._has_external_data(graph)
    assert not loading._has_external_data(graph.replace(b"location", b"locations"[1:]))


def _list_files_as_they_are(folder: Path) -> None:
    """Makes the manifest agree with files that were changed."""
    manifest = artifact.read_manifest(folder)
    for file in manifest.files:
        path = folder / file.path
        file.bytes, file.sha256 = path.stat().st_size, artifact.sha256(path)
    artifact.write_manifest(manifest, folder)
