"""`seqserve health`: what probes and scripts go by."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import trustme
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from seqserve_client.testing import FakeServer
from tests.name_server import NameServer

if TYPE_CHECKING:
    from tests.client.conftest import Done, Run

Code = grpc.StatusCode
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVING = HealthCheckResponse.SERVING
LONG_S = "600"


def test_a_server_that_answers_is_exit_code_0_and_no_output(run: Run) -> None:
    assert run("health") == run("health", "--model", "model")
    done = run("health")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_a_server_without_a_model_ready_is_exit_code_1_and_a_line(
    run: Run, server: FakeServer
) -> None:
    server.set_ready(False)
    done = run("health")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"seqserve health: {server.address} has no model ready: it loads, drains, or has refused "
        "all that it found; `seqserve models` says which\n"
    )
    done = run("health", "--model", "model")
    assert (done.exit_code, done.stderr) == (
        1,
        f"seqserve health: {server.address} does not serve model now; `seqserve models versions` "
        "says why\n",
    )


def test_an_unknown_model_is_named(run: Run, server: FakeServer) -> None:
    done = run("health", "--model", "other")
    assert (done.exit_code, done.stderr) == (
        1,
        f"seqserve health: {server.address} knows no model other; `seqserve models` lists those it "
        "knows\n",
    )


def test_a_server_that_is_not_there_is_told_in_a_line(run: Run, server: FakeServer) -> None:
    server.stop()
    done = run("health")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"seqserve health: {server.address} is unavailable")
    assert len(done.stderr.splitlines()) == 1


def test_one_that_does_not_answer_in_time_is_told(run: Run) -> None:
    with _health(answers=_Silent()) as port:
        done = run("health", "--timeout", "0.2", server=f"127.0.0.1:{port}")
    assert (done.exit_code, done.stderr) == (
        1,
        f"seqserve health: 127.0.0.1:{port} did not answer in the time given\n",
    )


def test_of_several_servers_all_must_answer(run: Run, server: FakeServer) -> None:
    with FakeServer() as other:
        both = f"{server.address},{other.address}"
        assert run("health", server=both).exit_code == 0
        other.set_ready(False)
        done = run("health", server=both)
    assert done.exit_code == 1
    assert other.address in done.stderr


def test_what_waits_comes_back_when_the_server_is_ready(run: Run) -> None:
    answers = _Counting(Code.NOT_FOUND, NOT_SERVING, Code.UNAVAILABLE, SERVING)
    with _health(answers=answers) as port:
        words = ("health", "--model", "late", "--wait", LONG_S)
        done = run(*words, server=f"127.0.0.1:{port}")
    assert (done.exit_code, done.stderr) == (0, "")
    assert answers.left == []


def test_what_waits_goes_on_while_nobody_listens() -> None:
    with FakeServer() as fake:
        address = fake.address
    words = ("health", "--server", address, "--wait", LONG_S)
    process = subprocess.Popen([sys.executable, "-m", "seqserve_client", *words])
    with fake:
        assert process.wait() == 0


def test_what_waits_in_vain_says_why(run: Run, server: FakeServer) -> None:
    server.set_ready(False)
    done = run("health", "--wait", "0.5")
    assert done.exit_code == 1
    assert "has no model ready" in done.stderr


def test_waiting_does_not_mend_a_refusal(run: Run, refusing: Callable[..., str]) -> None:
    address = refusing(Code.UNAUTHENTICATED, "no token")
    done = run("health", "--wait", LONG_S, server=address)
    assert (done.exit_code, done.stderr) == (1, "seqserve health: no token\n")


def test_it_goes_by_tls_with_a_certificate_of_its_own(run: Run, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = authority.issue_cert("probe")
    own.cert_chain_pems[0].write_to_path(tmp_path / "probe.pem")
    own.private_key_pem.write_to_path(tmp_path / "probe.key")
    issued = authority.issue_cert("localhost")
    credentials = grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    trusting = ("--ca-file", str(tmp_path / "ca.pem"))
    files = (str(tmp_path / "probe.pem"), str(tmp_path / "probe.key"))
    showing = ("--certificate-file", files[0], "--key-file", files[1])
    with _health(credentials=credentials) as port:
        address = f"localhost:{port}"
        assert run("health", *trusting, *showing, server=address).exit_code == 0
        assert run("health", *trusting, server=address).exit_code == 1
        assert run("health", server=address).exit_code == 1


def test_a_certificate_that_does_not_name_the_server_is_told_with_the_name_it_lacks(
    run: Run, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    def answered(address: str, *names: str) -> Done:
        issued = authority.issue_cert(*names)
        pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
        with _health(credentials=grpc.ssl_server_credentials([pair])) as port:
            trusting = ("--ca-file", str(tmp_path / "ca.pem"))
            return run("health", *trusting, server=f"{address}:{port}")

    # A name of the test's own has one address; `localhost` may have one at which nobody listens.
    with NameServer("127.0.0.1") as names:
        named = f"dns://127.0.0.1:{names.port}/{names.name}"
        for address, asked in (
            (named, names.name),
            ("127.0.0.1", "127.0.0.1"),
            ("ipv4:127.0.0.1", "127.0.0.1"),
        ):
            done = answered(address, "server.example")
            assert (done.exit_code, done.stdout) == (1, "")
            assert done.stderr.endswith(
                f"; its certificate does not name {asked}: issue one that does, or ask by a name "
                "that is in it\n"
            )
            assert answered(address, "server.example", asked).exit_code == 0


def test_an_address_that_cannot_be_is_a_wrong_usage(run: Run) -> None:
    done = run("health", server="no such thing")
    assert done.exit_code == 2
    assert done.stderr.startswith("seqserve health: 'no such thing' is no server address")


def test_it_needs_neither_numpy_nor_what_calls_need() -> None:
    with FakeServer() as fake:
        script = (
            "import sys, atexit\n"
            f"sys.argv = ['seqserve', 'health', '--server', {fake.address!r}]\n"
            "heavy = ('numpy', 'rich', 'seqserve_client.client')\n"
            "atexit.register(lambda: print([name for name in heavy if name in sys.modules]))\n"
            "from seqserve_client.cli import main; main()\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n")


class _Counting(health.HealthServicer):
    """Gives these answers one after the other, then no more."""

    def __init__(self, *answers: int | grpc.StatusCode) -> None:
        super().__init__()
        self.left = list(answers)

    def Check(self, request: object, context: grpc.ServicerContext) -> HealthCheckResponse:  # noqa: N802
        answer = self.left.pop(0)
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "")
        return HealthCheckResponse(status=answer)


class _Silent(health.HealthServicer):
    """Answers when its caller has gone."""

    def Check(self, request: object, context: grpc.ServicerContext) -> HealthCheckResponse:  # noqa: N802
        gone = threading.Event()
        if context.add_callback(gone.set):
            gone.wait()
        return HealthCheckResponse()


@contextmanager
def _health(
    answers: health.HealthServicer | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[int]:
    """A server of grpc.health.v1 alone; gives its port."""
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(answers or health.HealthServicer(), server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
