"""Who may do what, by the tokens of an access file."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from seqserve.v1 import catalog_pb2, repository_pb2
from seqserve.v1.classifier_pb2 import AdvanceRequest, ClassifyRequest
from seqserve_server import serving
from seqserve_server.errors import InvalidSetting, PermissionDenied, Unauthenticated
from seqserve_server.security import access
from seqserve_server.security.access import Access, Grant, Right
from seqserve_server.serving import SERVICES
from tests.server.conftest import TIMEOUT_S

if TYPE_CHECKING:
    from tests.server.conftest import Running, RunServer

Call = Callable[["Running", str], object]
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
SEQSERVE = Path(sys.executable).with_name("seqserve")


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {token}")]


def granted(token: str, *rights: Right, name: str = "ana", expires: datetime | None = None) -> str:
    return access.entry(Grant(name, access.sha256(token), frozenset(rights), expires)) + "\n"


def _reflect(server: Running, token: str) -> object:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    return next(
        stub.ServerReflectionInfo(iter([request]), metadata=bearer(token), timeout=TIMEOUT_S)
    )


def _unary(stub: str, method: str, request: Message) -> Call:
    def call(server: Running, token: str) -> object:
        return getattr(getattr(server, stub), method)(
            request, metadata=bearer(token), timeout=TIMEOUT_S
        )

    return call


CALLS: dict[str, tuple[Right, Call]] = {
    "Classify": (Right.CLASSIFY, _unary("classifier", "Classify", ClassifyRequest())),
    "Advance": (Right.CLASSIFY, _unary("classifier", "Advance", AdvanceRequest())),
    "ListModels": (
        Right.DESCRIBE,
        _unary("catalog", "ListModels", catalog_pb2.ListModelsRequest()),
    ),
    "DescribeModel": (
        Right.DESCRIBE,
        _unary("catalog", "DescribeModel", catalog_pb2.DescribeModelRequest(model_name="gru")),
    ),
    "reflection": (Right.DESCRIBE, _reflect),
    "LoadModel": (
        Right.OPERATE,
        _unary("operations", "LoadModel", repository_pb2.LoadModelRequest(model_name="gru")),
    ),
    "UnloadModel": (
        Right.OPERATE,
        _unary("operations", "UnloadModel", repository_pb2.UnloadModelRequest(model_name="no")),
    ),
    "ReloadRepository": (
        Right.OPERATE,
        _unary("operations", "ReloadRepository", repository_pb2.ReloadRepositoryRequest()),
    ),
}
DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@pytest.fixture(scope="module")
def tokens() -> dict[Right, str]:
    """A token for each right."""
    return {right: access.new_token() for right in Right}


@pytest.fixture(scope="module")
def guarded(
    run_server: RunServer,
    models: Path,
    tokens: dict[Right, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """A server that knows `tokens`, and a channel that shows none by itself."""
    file = tmp_path_factory.mktemp("access") / "access.toml"
    file.write_text("".join(granted(token, right) for right, token in tokens.items()))
    with run_server(models, access_file=file) as running:
        yield running


def refused(server: Running, call: Call, token: str) -> grpc.StatusCode | None:
    """How a call is refused for its token; None where it is let in."""
    try:
        call(server, token)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code if code in DENIED else None
    return None


@pytest.mark.parametrize(("needed", "call"), CALLS.values(), ids=CALLS.keys())
def test_a_call_needs_the_right_to_its_service(
    guarded: Running, tokens: dict[Right, str], needed: Right, call: Call
) -> None:
    for right, token in tokens.items():
        denied = None if right is needed else grpc.StatusCode.PERMISSION_DENIED
        assert refused(guarded, call, token) is denied, right

    assert refused(guarded, call, access.new_token()) is grpc.StatusCode.UNAUTHENTICATED


METHODS = [
    f"/{service}/{method.name}"
    for service in SERVICES
    for method in descriptor_pool.Default().FindServiceByName(service).methods
]


@pytest.mark.parametrize("path", [path for path in METHODS if "Health" not in path])
def test_every_method_needs_a_token_but_those_of_health(guarded: Running, path: str) -> None:
    call = guarded.channel.unary_unary(path, None, None)
    error = guarded.failure(lambda: call(b"", timeout=TIMEOUT_S))

    assert error.code is grpc.StatusCode.UNAUTHENTICATED
    assert error.message == "this call needs a token: authorization: Bearer TOKEN"
    assert guarded.health() == "SERVING"


def test_a_method_that_is_not_there_is_unimplemented_to_anybody(guarded: Running) -> None:
    call = guarded.channel.unary_unary("/grpc.reflection.v1.ServerReflection/Other", None, None)
    error = guarded.failure(lambda: call(b"", timeout=TIMEOUT_S))

    assert error.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "Basic YW5hOmFuYQ==")],
        [("authorization-bin", b"Bearer x")],
        [("authorization", "Bearer " + 8000 * "x")],
    ],
    ids=["none", "empty", "no token", "empty token", "basic", "binary", "long"],
)
def test_what_is_no_token_is_unauthenticated(
    guarded: Running, metadata: Sequence[tuple[str, str | bytes]]
) -> None:
    for method, request in [
        (guarded.classifier.Classify, ClassifyRequest()),
        (guarded.catalog.ListModels, catalog_pb2.ListModelsRequest()),
    ]:
        error = guarded.failure(
            lambda method=method, request=request: method(  # type: ignore[misc]
                request, metadata=metadata, timeout=TIMEOUT_S
            )
        )
        assert error.code is grpc.StatusCode.UNAUTHENTICATED


def test_a_refusal_says_which_right_is_lacking_and_never_the_token(
    guarded: Running, tokens: dict[Right, str], caplog: pytest.LogCaptureFixture
) -> None:
    unknown = access.new_token()
    with caplog.at_level(logging.DEBUG):
        lacking = guarded.failure(lambda: CALLS["LoadModel"][1](guarded, tokens[Right.CLASSIFY]))
        wrong = guarded.failure(lambda: CALLS["Classify"][1](guarded, unknown))

    assert lacking.message == "the token of ana is good for classify; this call needs operate"
    assert wrong.message == "the token is not one that this server knows"
    assert not any(token in caplog.text for token in [unknown, *tokens.values()])


def test_an_operators_calls_are_logged_by_name(
    guarded: Running, tokens: dict[Right, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        CALLS["LoadModel"][1](guarded, tokens[Right.OPERATE])

    assert "ana called /seqserve.v1.ModelRepository/LoadModel" in caplog.text


def test_a_token_that_ends_is_refused_from_then_on() -> None:
    token, now = access.new_token(), datetime.now(UTC)
    rights = frozenset(Right)
    ended = Access([Grant("ana", access.sha256(token), rights, now - timedelta(seconds=1))])
    holds = Access([Grant("ana", access.sha256(token), rights, now + timedelta(days=1))])

    for _ in range(2):  # the second time it is known
        with pytest.raises(Unauthenticated, match="the token of ana ended at "):
            ended.check(bearer(token), Right.CLASSIFY)
        assert holds.check(bearer(token), Right.CLASSIFY).name == "ana"


def test_callers_cannot_make_what_the_server_remembers_grow() -> None:
    token = access.new_token()
    some = Access([Grant("ana", access.sha256(token), frozenset(Right))])
    some.check(bearer(token), Right.CLASSIFY)
    remembered = len(some._known)
    for count in range(1, 100):
        for header in [f"Bearer {token}{count}", f"Bearer {count * ' '}{token}"]:
            with pytest.raises(Unauthenticated):
                some.check([("authorization", header)], Right.CLASSIFY)

    assert len(some._known) == remembered


@contextmanager
def _rewritable(
    run_server: RunServer, models: Path, file: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> Iterator[Running]:
    monkeypatch.setattr(serving, "LOOK_INTERVAL_S", 0.01)
    file.write_text(content)
    with run_server(models, access_file=file) as server:
        yield server


def _until(holds: Callable[[], bool]) -> None:
    """Until it holds; a test that waits so long has failed."""
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < end


def test_tokens_are_rotated_without_a_restart(
    run_server: RunServer, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, file = access.new_token(), access.new_token(), tmp_path / "access.toml"
    calls = [CALLS["Classify"][1], CALLS["ListModels"][1]]
    both = (Right.CLASSIFY, Right.DESCRIBE)
    with _rewritable(run_server, models, file, monkeypatch, granted(old, *both)) as server:
        assert refused(server, calls[0], new) is grpc.StatusCode.UNAUTHENTICATED

        file.write_text(granted(old, *both) + granted(new, *both))
        for call in calls:
            _until(lambda call=call: refused(server, call, new) is None)  # type: ignore[misc]
            assert refused(server, call, old) is None

        (tmp_path / "next").write_text(granted(new, *both))
        (tmp_path / "next").rename(file)
        for call in calls:
            _until(lambda call=call: refused(server, call, old) is DENIED[0])  # type: ignore[misc]
            assert refused(server, call, new) is None


@pytest.mark.parametrize("broken", ["[[token]", "", "gone"], ids=["no TOML", "emptied", "gone"])
def test_a_broken_access_file_keeps_the_rights_there_were_and_is_logged(
    run_server: RunServer,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    old, new, file = access.new_token(), access.new_token(), tmp_path / "access.toml"
    call = CALLS["Classify"][1]
    with (
        caplog.at_level(logging.ERROR),
        _rewritable(run_server, models, file, monkeypatch, granted(old, *Right)) as server,
    ):
        if broken == "gone":
            file.unlink()
        else:
            (tmp_path / "next").write_text(broken)
            (tmp_path / "next").rename(file)
        _until(lambda: "what was there before stays in force" in caplog.text)
        assert refused(server, call, old) is None

        (tmp_path / "next").write_text(granted(new, *Right))
        (tmp_path / "next").rename(file)
        _until(lambda: refused(server, call, new) is None)
        assert refused(server, call, old) is grpc.StatusCode.UNAUTHENTICATED

    assert caplog.text.count("stays in force") == 1


BAD = {
    "no TOML": ("[[token]", r"not TOML \(at"),
    "the token alone": ("seqserve_x", r"not TOML \(at"),
    "the token as a key": ('[[token]]\nseqserve_x = "ana"', "has other keys than"),
    "no text": ("\udcff", "not TOML"),
    "nothing": ("", "no token"),
    "something else": ("rights = 1", r"holds \[\[token\]\] tables and nothing else"),
    "the token itself": (
        '[[token]]\nname = "a"\nsha256 = "seqserve_x"\nrights = ["classify"]',
        "token 1: sha256 has to be 64 lower-case hexadecimal digits, not the token",
    ),
    "an unknown right": (
        f'[[token]]\nname = "a"\nsha256 = "{64 * "0"}"\nrights = ["read"]',
        "token 1: rights have to be some of classify, describe, operate",
    ),
    "no rights": (
        f'[[token]]\nname = "a"\nsha256 = "{64 * "0"}"\nrights = []',
        "rights have to be some of",
    ),
    "no name": (
        f'[[token]]\nsha256 = "{64 * "0"}"\nrights = ["classify"]',
        "name has to be 1 to 128",
    ),
    "no zone": (
        f'[[token]]\nname = "a"\nsha256 = "{64 * "0"}"\nrights = ["classify"]\n'
        "expires = 2027-01-01T00:00:00",
        "expires has to be a date, or a time with its zone",
    ),
    "a misspelt key": (
        f'[[token]]\nname = "a"\nsha256 = "{64 * "0"}"\nright = ["classify"]',
        "has other keys than expires, name, rights, sha256",
    ),
    "twice": (2 * granted("x", Right.CLASSIFY), "two entries are of the same token"),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_access_file_is_refused_with_the_place_and_without_what_it_holds(
    content: str, words: str
) -> None:
    with pytest.raises(InvalidSetting, match=words) as raised:
        access.parse(content.encode(errors="surrogateescape"), Path("a.toml"))

    assert str(raised.value).startswith("--access-file a.toml: ")
    assert "seqserve_x" not in str(raised.value)


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}", fullmatch=True),
            st.sets(st.sampled_from(Right), min_size=1),
            st.none() | st.datetimes(datetime(2000, 1, 1), datetime(3000, 1, 1)),
        ),
        min_size=1,
    )
)
def test_what_an_entry_says_is_read_again(
    entries: list[tuple[str, set[Right], datetime | None]],
) -> None:
    grants = [
        Grant(
            name,
            access.sha256(str(number)),
            frozenset(rights),
            expires and expires.replace(microsecond=0, tzinfo=UTC),
        )
        for number, (name, rights, expires) in enumerate(entries)
    ]
    content = "\n".join(map(access.entry, grants))

    assert access.parse(content.encode(), Path("a.toml")) == grants


def test_a_new_token_is_shown_once_and_its_lines_let_it_in() -> None:
    made = _token("new", "ana", "--rights", "classify,describe", "--expires", "2999-01-31")
    token = made.stderr.splitlines()[-1]
    [entry] = tomllib.loads(made.stdout)["token"]
    some = Access(access.parse(made.stdout.encode(), Path("a.toml")))

    assert token not in made.stdout
    assert entry["expires"] == datetime(2999, 1, 31, tzinfo=UTC)
    assert some.check(bearer(token), Right.DESCRIBE).name == "ana"
    with pytest.raises(PermissionDenied):
        some.check(bearer(token), Right.OPERATE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a b", "--rights", "classify"], "name has to be 1 to 128 of"),
        (["ana", "--rights", "all"], "rights have to be some of classify, describe, operate"),
        (["ana", "--rights", ""], "rights have to be some of classify"),
    ],
    ids=["name", "rights", "none"],
)
def test_a_token_is_not_made_of_what_cannot_be(arguments: list[str], words: str) -> None:
    made = _token("new", *arguments)

    assert made.returncode == 2
    assert words in made.stderr
    assert made.stdout == ""


def test_a_server_does_not_start_with_a_bad_access_file(models: Path, tmp_path: Path) -> None:
    (tmp_path / "access.toml").write_text("[[token]")
    process = subprocess.run(
        [SEQSERVE, "serve", models, "--access-file", tmp_path / "access.toml"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert process.returncode == 2
    assert f"--access-file {tmp_path}/access.toml: not TOML" in process.stderr
    assert "Traceback" not in process.stderr


def _token(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SEQSERVE, "token", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
