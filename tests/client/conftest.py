"""A server that answers by rule, and both kinds of client behind one interface."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, cast

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve_client import AsyncClient, Client
from seqserve_client.cli import COMMANDS, command_line
from seqserve_client.testing import FakeServer

Connect = Callable[..., Client]


@dataclass(frozen=True)
class Done:
    """How a subcommand ended."""

    exit_code: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


class _Awaiting:
    """An `AsyncClient` that is called as `Client` is: every call runs its event loop."""

    def __init__(self, runner: asyncio.Runner, wrapped: object) -> None:
        self._runner = runner
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        attribute = getattr(self._wrapped, name)
        if inspect.iscoroutinefunction(attribute):
            return lambda *args, **named: self._runner.run(attribute(*args, **named))
        if name == "live":
            return lambda **named: _Awaiting(self._runner, attribute(**named))
        return attribute


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of either kind, which are closed at the end."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def connected(address: str, **options: Any) -> Client:  # noqa: ANN401
            if request.param == "sync":
                return stack.enter_context(Client(address, **options))
            client = _Awaiting(runner, AsyncClient(address, **options))
            stack.callback(client.close)
            return cast(Client, client)

        yield connected


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server with three classes, which takes any number of features."""
    with FakeServer(["low", "middle", "high"]) as fake:
        yield fake


@pytest.fixture
def client(connect: Connect, server: FakeServer) -> Client:
    """A client of the server with default options."""
    return connect(server.address)


@pytest.fixture
def sync_client(server: FakeServer) -> Iterator[Client]:
    """The same for threads alone, where the kind of client makes no difference."""
    with Client(server.address) as client:
        yield client


@pytest.fixture
def sequences() -> list[NDArray[np.float32]]:
    """Forty sequences of 1 to 9 steps and 3 features, some of every class."""
    random = np.random.default_rng(7)
    return [
        random.normal(loc=index % 3, size=(length, 3)).astype(np.float32)
        for index, length in enumerate(random.integers(1, 10, 40))
    ]


@pytest.fixture
def refusing() -> Iterator[Callable[..., str]]:
    """Starts bare servers that abort every call, and gives their addresses."""
    with ExitStack() as stack:

        def start(code: grpc.StatusCode, message: str, details: bytes = b"") -> str:
            def abort(_: object, context: grpc.ServicerContext) -> None:
                if details:
                    context.set_trailing_metadata((("grpc-status-details-bin", details),))
                context.abort(code, message)

            class Refusing(grpc.GenericRpcHandler):  # type: ignore[type-arg]
                def service(self, _: object) -> grpc.RpcMethodHandler[Any, Any]:
                    return grpc.unary_unary_rpc_method_handler(abort)

            server = grpc.server(ThreadPoolExecutor(1), handlers=[Refusing()])
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            return f"127.0.0.1:{port}"

        yield start


@pytest.fixture
def run(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a subcommand against the server, in this process."""
    own = [one for one in entry_points(group=COMMANDS) if one.module == "seqserve_client.commands"]
    app = command_line(own)

    def invoke(*words: str, server: str = server.address) -> Done:
        with pytest.raises(SystemExit) as ended:
            app([*words, "--server", server])
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    return invoke
