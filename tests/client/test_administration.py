"""What operators ask of a server: the library's calls, and `seqserve models load`, …"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from seqserve_client import (
    CannotLoad,
    Client,
    DeadlineExceeded,
    InvalidOptions,
    ModelNotFound,
    ModelState,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from seqserve_client.administration import parse_version
from seqserve_client.testing import FakeServer

Code = grpc.StatusCode
SEQSERVE = [sys.executable, "-m", "seqserve_client"]
TIMEOUT_S = 60.0

CALLS: dict[str, Callable[[Client], object]] = {
    "LoadModel": lambda client: client.load_model("model", 3),
    "UnloadModel": lambda client: client.unload_model("model"),
    "ReloadRepository": lambda client: client.reload_repository(),
}


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def _run(*words: str | Path, server: str) -> Done:
    done = subprocess.run(
        [*SEQSERVE, "models", *map(str, words), "--server", server],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _rows(done: Done) -> list[list[str]]:
    """The lines of a table, in words, without its headings."""
    assert (done.code, done.err) == (0, "")
    heading, *lines = done.out.splitlines()
    assert heading.split() == ["model", "version", "state", "execution", "provider", "digest"]
    return [line.split() for line in lines]


def test_a_version_is_loaded_and_unloaded_by_name(client: Client, server: FakeServer) -> None:
    loaded = client.load_model("model", 3)
    assert (loaded.name, loaded.version, loaded.state) == ("model", 3, ModelState.READY)
    assert [(each.version, each.state) for each in client.reload_repository()] == [
        (1, ModelState.READY),
        (3, ModelState.READY),
    ]

    unloaded = client.unload_model("model", 1)
    assert (unloaded.version, unloaded.state) == (1, ModelState.UNLOADED)
    assert [each.version for each in client.models()] == [3]
    assert [call.method for call in server.calls] == [
        *("LoadModel", "ReloadRepository", "UnloadModel", "ListModels"),
    ]


def test_the_newest_is_meant_where_no_version_is_named(client: Client, server: FakeServer) -> None:
    server.publish(7)

    assert client.load_model("model").version == 7
    assert client.unload_model("model").version == 7
    assert [call.request.model_version for call in server.calls] == [0, 0]


@pytest.mark.parametrize("method", CALLS)
def test_what_changes_a_server_is_never_tried_again(
    client: Client, server: FakeServer, method: str
) -> None:
    server.fail(Code.UNAVAILABLE, "is draining")

    with pytest.raises(Unavailable, match="is draining"):
        CALLS[method](client)

    assert [call.method for call in server.calls] == [method]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAUTHENTICATED, Unauthenticated),
        (Code.PERMISSION_DENIED, PermissionDenied),
        (Code.FAILED_PRECONDITION, CannotLoad),
        (Code.NOT_FOUND, ModelNotFound),
        (Code.DEADLINE_EXCEEDED, DeadlineExceeded),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("method", CALLS)
def test_a_refusal_has_an_error_of_its_own(
    client: Client, server: FakeServer, method: str, code: grpc.StatusCode, kind: type[Exception]
) -> None:
    server.fail(code, "because of this")

    with pytest.raises(kind) as raised:
        CALLS[method](client)

    assert type(raised.value) is kind
    assert code is Code.DEADLINE_EXCEEDED or str(raised.value) == "because of this"


def test_a_version_that_cannot_be_is_not_asked_for(client: Client, server: FakeServer) -> None:
    with pytest.raises(InvalidOptions, match="version is -1"):
        client.load_model("model", -1)

    assert server.calls == []


def test_the_timeout_of_a_call_is_its_own(client: Client, server: FakeServer) -> None:
    client.load_model("model", timeout_s=500)

    assert 30 < server.calls[0].time_remaining_s < 510  # gRPC rounds up


@pytest.mark.parametrize(
    ("text", "expected"),
    [("speakers", ("speakers", 0)), ("speakers:3", ("speakers", 3)), ("a.b-c:12", ("a.b-c", 12))],
)
def test_a_version_is_written_with_a_colon(text: str, expected: tuple[str, int]) -> None:
    assert parse_version(text) == expected


@pytest.mark.parametrize("text", ["", ":3", "speakers:", "speakers:0", "speakers:x", "a:1:2"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidOptions, match=r"NAME or NAME:VERSION is needed"):
        parse_version(text)


def test_the_commands_print_what_became_of_the_versions(server: FakeServer) -> None:
    address = server.address
    loaded = _rows(_run("load", "model:3", server=address))
    assert loaded == [["model", "3", "ready", "FakeExecutionProvider", "0" * 12]]
    assert [row[:3] for row in _rows(_run("reload", server=address))] == [
        ["model", "1", "ready"],
        ["model", "3", "ready"],
    ]
    unloaded = _run("unload", "model", server=address)
    assert "model        3  unloaded: was taken out of service" in unloaded.out
    assert [row[:3] for row in _rows(_run("versions", "model", server=address))] == [
        ["model", "1", "ready"]
    ]


def test_every_server_of_a_list_is_asked_in_turn(server: FakeServer) -> None:
    with FakeServer() as other:
        done = _run("load", "model:2", server=f"{server.address}, {other.address}")
        calls = [[call.method for call in each.calls] for each in (server, other)]

    assert done.code == 0
    assert calls == [["LoadModel"], ["LoadModel"]]
    assert done.out.splitlines()[::3] == [server.address, other.address]


def test_an_unknown_model_is_told_with_those_that_are_known(server: FakeServer) -> None:
    done = _run("versions", "widths", server=server.address)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "seqserve models versions: the server knows no model widths; it knows: model\n"
    )
    done = _run("load", "widths:3", server=server.address)
    assert done.code == 1
    assert done.err == (
        "seqserve models load: widths version 3 is not served; model is, in versions [1]\n"
    )


@pytest.mark.parametrize(
    "code",
    [Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.FAILED_PRECONDITION],
    ids=lambda code: code.name,
)
def test_a_refusal_is_told_in_a_line_with_its_reason(
    server: FakeServer, code: grpc.StatusCode
) -> None:
    server.fail(code, "the reason that the server gives")

    done = _run("load", "model:3", server=server.address)

    assert (done.code, done.out) == (1, "")
    assert done.err == "seqserve models load: the reason that the server gives\n"


def test_what_is_no_version_is_a_wrong_usage(server: FakeServer) -> None:
    done = _run("load", "model:", server=server.address)

    assert done.code == 2
    assert "NAME or NAME:VERSION is needed, as speakers:3" in done.err
    assert server.calls == []


def test_a_token_of_a_file_goes_out_with_the_call(server: FakeServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("let-me-in\n")

    assert _run("reload", "--token-file", token, server=server.address).code == 0
    assert server.calls[0].metadata["authorization"] == "Bearer let-me-in"


def test_a_token_file_without_a_token_is_a_wrong_usage(server: FakeServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("two words\n")

    done = _run("reload", "--token-file", token, server=server.address)

    assert done.code == 2
    assert str(token) in done.err
    assert "two words" not in done.err
    assert server.calls == []


def test_an_option_before_the_subcommand_is_refused_rather_than_ignored(
    server: FakeServer,
) -> None:
    done = subprocess.run(
        [*SEQSERVE, "models", "--server", server.address, "reload"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("seqserve models: --server comes after reload")
    assert server.calls == []
