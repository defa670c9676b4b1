"""`seqserve serve --processes`: several real processes on one port, killed and drained."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve import ragged
from seqserve.ragged import RaggedBatch
from seqserve.v1.classifier_pb2 import AdvanceRequest, ClassifyRequest, ClassifyResponse
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve.v1.repository_pb2 import ReloadRepositoryRequest
from seqserve.v1.repository_pb2_grpc import ModelRepositoryStub
from seqserve_server import cores
from seqserve_server.options import Transport
from seqserve_server.process import Offer
from seqserve_server.processes import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    common,
    pause_s,
)
from seqserve_server.security import access

MakeSequences = Callable[..., list[NDArray[np.float32]]]
MakeRequest = Callable[..., ClassifyRequest]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out a port")

TIMEOUT_S = 60.0
SEQSERVE = [Path(sys.executable).with_name("seqserve")]
MANY_CHANNELS = 32
"""Connections are shared out at random: that so many go to one of two processes does not happen."""

WATCHED = """
# The command, which says on stdout which process runs a model, while the folder holds `watched`;
# while it holds `shut` too, the run waits until somebody writes to the named pipe `gate`.
import os, sys
from pathlib import Path
from seqserve_server.models import sessions

folder = Path(__file__).parent

class Watched:
    def __init__(self, session):
        self.get_providers, self._run = session.get_providers, session.run

    def run(self, *arguments):
        if (folder / "watched").exists():
            os.write(1, b"%d\\n" % os.getpid())
        if (folder / "shut").exists():
            (folder / "gate").read_bytes()
        return self._run(*arguments)

opener = sessions.opener
def watched(provider):
    open_session = opener(provider)
    return lambda model: Watched(open_session(model))
sessions.opener = watched

if __name__ == "__main__":
    from seqserve_client.cli import main
    main()
"""

DYING = """
# The command, whose processes are killed before they do anything.
import os, signal

if __name__ == "__main__":
    from seqserve_client.cli import main
    main()
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass(frozen=True)
class Serving:
    """A server of two processes that has said it is ready."""

    process: subprocess.Popen[str]
    address: str
    said: str
    """Until it was ready."""
    folder: Path

    def channel(self) -> grpc.Channel:
        """A connection of its own: channels to one address share one by default."""
        return grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)])

    def watch(self) -> None:
        """From now on, every run says its process."""
        (self.folder / "watched").touch()

    def look_away(self) -> None:
        """Until `watch` again: the first runs of a process prove its models."""
        (self.folder / "watched").unlink()

    def shut(self) -> None:
        """From now on, runs wait for `open`."""
        os.mkfifo(self.folder / "gate")
        (self.folder / "shut").touch()

    def open(self) -> None:
        """Lets the runs of every process go on; some must be waiting."""
        (self.folder / "shut").unlink()
        (self.folder / "gate").write_bytes(b"")

    def who_ran(self) -> int:
        """The process of the next run."""
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def wait_for(self, *words: str) -> None:
        """Reads log lines until each of `words` was in one."""
        missing = set(words)
        assert self.process.stderr
        for line in self.process.stderr:
            missing = {each for each in missing if each not in line}
            if not missing:
                return
        raise AssertionError(f"it ended without saying {missing}")

    def rest(self) -> str:
        """What it says until all its processes have ended: they all hold the pipe."""
        return self.process.communicate(timeout=TIMEOUT_S)[1]

    def nobody_listens(self) -> bool:
        host, port = self.address.split(":")
        with socket.socket() as caller:
            return caller.connect_ex((host, int(port))) != 0


Serve = Callable[..., Serving]


@contextmanager
def _serving(models: Path, folder: Path, *options: str) -> Iterator[Serving]:
    script = folder / "watched_seqserve.py"
    script.write_text(WATCHED)
    command = [sys.executable, str(script), "serve", str(models), "--address", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--metrics-address", "off", "--processes", "2", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if " ready in " in line:
                    break
            listening = re.search(r"listening on (127\.0\.0\.1:\d+)", said)
            assert listening, said
            yield Serving(process, listening[1], said, folder)
        finally:
            process.kill()


@pytest.fixture
def serve(gru_alone: Path, transport: Transport, tmp_path: Path) -> Iterator[Serve]:
    """Starts `seqserve serve MODELS --processes 2` with more options."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(
            _serving(gru_alone, tmp_path, "--transport", transport, *options)
        )


@pytest.fixture(scope="module")
def shared(
    models: Path, transport: Transport, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """One that no test changes, of which every run says its process."""
    folder = tmp_path_factory.mktemp("shared")
    options = ["--transport", transport, "--lanes", "3"]
    with _serving(models, folder, *options) as serving:
        serving.watch()
        yield serving


def _refused(*arguments: str | Path, command: Sequence[str | Path] = SEQSERVE) -> tuple[int, str]:
    """Exit code and words of a server that does not start."""
    process = subprocess.run(
        [*command, "serve", "--metrics-address", "off", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return process.returncode, process.stderr


def _answer(serving: Serving, request: ClassifyRequest) -> ClassifyResponse:
    """Over a new connection."""
    with serving.channel() as channel:
        return SequenceClassifierStub(channel).Classify(request, timeout=TIMEOUT_S)


@contextmanager
def _connected(serving: Serving, request: ClassifyRequest) -> Iterator[dict[int, grpc.Channel]]:
    """A connection to each process that answers calls over new ones, as soon as they are two."""
    with ExitStack() as channels:
        connected: dict[int, grpc.Channel] = {}
        for _ in range(MANY_CHANNELS):
            channel = channels.enter_context(serving.channel())
            SequenceClassifierStub(channel).Classify(request, timeout=TIMEOUT_S)
            connected[serving.who_ran()] = channel
            if len(connected) == 2:
                break
        yield connected


def _processes(serving: Serving, request: ClassifyRequest) -> set[int]:
    """The processes that answer calls over new connections, as soon as they are two."""
    with _connected(serving, request) as connected:
        return set(connected)


@on_linux
def test_each_process_answers_calls_to_the_one_port(
    shared: Serving, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    answering = _processes(shared, make_request("gru", make_sequences(4)))

    assert len(answering) == 2
    assert shared.process.pid not in answering


@on_linux
def test_it_says_once_where_it_listens_and_what_is_ready(
    shared: Serving, transport: Transport
) -> None:
    said = shared.said

    assert said.count("listening on") == 1
    assert f"({transport} transport, 2 processes of 3 lanes)" in said
    assert re.search(r" ready in \d+\.\d\d s: both-ways 1, gru 1, lstm 1, rnn 1\n", said)
    assert said.count("no --token-key-file") == 1
    for number in (1, 2):
        assert f"INFO process {number}: gru version 1: 4 labels" in said


@on_linux
def test_a_live_sequence_may_go_on_at_another_process(
    shared: Serving, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    [sequence] = make_sequences(MANY_CHANNELS)
    token = b""
    went: set[tuple[int, int]] = set()
    before = 0
    for step in sequence:
        with shared.channel() as channel:
            response = SequenceClassifierStub(channel).Advance(
                AdvanceRequest(
                    model_name="gru",
                    steps=ragged.encode(RaggedBatch.from_sequences([step[None]])),
                    tokens=[token],
                ),
                timeout=TIMEOUT_S,
            )
        [token] = response.tokens
        process = shared.who_ran()
        if before:
            went.add((before, process))
        before = process
    whole = _answer(shared, make_request("gru", [sequence]))
    shared.who_ran()

    assert any(old != new for old, new in went)
    assert response.answers.logits == whole.answers.logits


@on_linux
@pytest.mark.parametrize("processes", ["1", "3"])
def test_another_server_cannot_share_their_port(
    shared: Serving, models: Path, transport: Transport, processes: str
) -> None:
    options = ["--address", shared.address, "--transport", transport, "--processes", processes]
    code, words = _refused(models, *options)

    assert code == 1
    assert words == f"seqserve serve: cannot listen on {shared.address}: Address already in use\n"


@on_linux
def test_a_killed_process_is_replaced_and_nobody_is_sent_to_it_before_it_is_ready(
    serve: Serve, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    request = make_request("gru", make_sequences(4))
    serving = serve()
    serving.watch()
    killed, other = _processes(serving, request)
    serving.look_away()

    os.kill(killed, signal.SIGKILL)
    serving.wait_for(f"(pid {killed}) was ended by SIGKILL; starting it again in 0.1 s")
    with ThreadPoolExecutor() as aside:
        replaced = aside.submit(serving.wait_for, "takes its place")
        while not replaced.done():
            _answer(serving, request)
    replaced.result()
    serving.watch()
    afterwards = _processes(serving, request)
    serving.process.terminate()
    rest = serving.rest()

    lanes = cores.granted(2)
    assert f"2 processes of {lanes} {'lane' if lanes == 1 else 'lanes'})" in serving.said
    assert len(afterwards) == 2
    assert other in afterwards
    assert killed not in afterwards
    assert serving.process.returncode == 0
    assert "listening on" not in rest
    assert "Traceback" not in rest


@on_linux
@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_the_calls_of_every_process_finish(
    serve: Serve,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    signal_: signal.Signals,
) -> None:
    request = make_request("gru", make_sequences(4))
    serving = serve()
    serving.watch()
    with _connected(serving, request) as connected:
        serving.shut()
        calls = [
            SequenceClassifierStub(channel).Classify.future(request, timeout=TIMEOUT_S)
            for channel in connected.values()
        ]
        assert {serving.who_ran(), serving.who_ran()} == set(connected)

        serving.process.send_signal(signal_)
        serving.wait_for(
            f"process 1: {signal_.name}: draining", f"process 2: {signal_.name}: draining"
        )
        assert not any(call.done() for call in calls)
        serving.open()
        answered = [len(call.result().answers.labels) for call in calls]
    rest = serving.rest()

    assert answered == [1, 1]
    assert serving.process.returncode == 0
    assert rest.endswith(" INFO stopped\n")
    assert "Traceback" not in rest
    assert serving.nobody_listens()


@on_linux
@pytest.mark.parametrize(
    "blow",
    [[signal.SIGKILL], [signal.SIGTERM, signal.SIGTERM]],
    ids=["killed", "a second signal"],
)
def test_no_process_outlives_the_one_that_started_it(
    gru_alone: Path,
    tmp_path: Path,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    blow: list[signal.Signals],
) -> None:
    with _serving(gru_alone, tmp_path) as serving, serving.channel() as channel:
        serving.watch()
        serving.shut()
        call = SequenceClassifierStub(channel).Classify.future(
            make_request("gru", make_sequences(4)), timeout=TIMEOUT_S
        )
        serving.who_ran()
        for signal_ in blow[:-1]:
            serving.process.send_signal(signal_)
            serving.wait_for("INFO SIGTERM: draining")
        serving.process.send_signal(blow[-1])
        serving.rest()

        assert serving.process.returncode == -blow[-1]
        assert serving.nobody_listens()
        with pytest.raises(grpc.RpcError) as raised:
            call.result()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@on_linux
def test_what_none_of_them_could_serve_ends_them_with_one_line(tmp_path: Path) -> None:
    options = ["--processes", "2", "--address", "127.0.0.1:0"]
    code, words = _refused(tmp_path / "none", *options)

    assert code == 1
    assert words == f"seqserve serve: {tmp_path}/none: there is no such folder\n"


@on_linux
def test_a_provider_that_is_not_there_ends_them_with_one_line(models: Path) -> None:
    options = ["--processes", "2", "--address", "127.0.0.1:0", "--execution-provider", "cuda"]
    code, words = _refused(models, *options)

    assert code == 2
    assert "pip install onnxruntime-gpu" in words
    assert words.count("\n") == 1


@on_linux
def test_what_keeps_a_process_from_starting_again_does_not_stop_the_others(
    gru_alone: Path, tmp_path: Path, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    request = make_request("gru", make_sequences(4))
    repository = shutil.copytree(gru_alone, tmp_path / "models")
    with _serving(repository, tmp_path) as serving:
        serving.watch()
        killed, _ = _processes(serving, request)
        repository.rename(tmp_path / "away")

        os.kill(killed, signal.SIGKILL)
        serving.wait_for(f"could not start: {repository}: there is no such folder; starting it")
        _answer(serving, request)
        serving.look_away()
        (tmp_path / "away").rename(repository)
        serving.wait_for("takes its place")
        serving.process.terminate()
        serving.rest()

    assert serving.process.returncode == 0


@on_linux
def test_processes_that_end_before_they_listen_are_not_started_again(
    models: Path, tmp_path: Path
) -> None:
    script = tmp_path / "dying_seqserve.py"
    script.write_text(DYING)
    code, words = _refused(
        models, "--processes", "2", "--address", "127.0.0.1:0", command=[sys.executable, script]
    )

    assert code == 1
    assert re.fullmatch(
        r"seqserve serve: process [12] \(pid \d+\) was ended by SIGKILL before it listened",
        words.splitlines()[-1],
    )
    assert "Traceback" not in words


@on_linux
def test_operator_calls_are_refused_for_they_reach_one_process_only(
    gru_alone: Path, tmp_path: Path
) -> None:
    token = access.new_token()
    grant = access.Grant("operator", access.sha256(token), frozenset(access.Right))
    (tmp_path / "access.toml").write_text(access.entry(grant))
    with (
        _serving(gru_alone, tmp_path, "--access-file", str(tmp_path / "access.toml")) as serving,
        serving.channel() as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        ModelRepositoryStub(channel).ReloadRepository(
            ReloadRepositoryRequest(),
            metadata=(("authorization", f"Bearer {token}"),),
            timeout=TIMEOUT_S,
        )

    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "2 processes, and a call would reach one of them only" in str(raised.value.details())


def test_a_process_that_dies_again_and_again_is_started_less_and_less_often() -> None:
    pauses = [0.0]
    for _ in range(20):
        pauses.append(pause_s(pauses[-1], lived_s=1.0))

    assert pauses[1] == FIRST_PAUSE_S
    assert all(
        later == min(2 * earlier, LONGEST_PAUSE_S) for earlier, later in pairwise(pauses[1:])
    )
    assert pauses[-1] == LONGEST_PAUSE_S
    assert pause_s(LONGEST_PAUSE_S, lived_s=2 * LONGEST_PAUSE_S) == FIRST_PAUSE_S


def test_ready_is_what_every_process_has_to_offer() -> None:
    offers = [Offer(("a 1", "a 2", "b 1"), refused=0), Offer(("a 1", "b 1"), refused=1)]

    assert common(offers) == Offer(("a 1", "b 1"), refused=1)
