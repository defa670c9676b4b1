"""The `seqserve` command as a process: what it imports, how it ends."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from seqserve import __version__
from seqserve_client.cli import COMMANDS
from seqserve_client.testing import FakeServer

SEQSERVE = [sys.executable, "-m", "seqserve_client"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SEQSERVE, *words], capture_output=True, text=True, timeout=120)


def run_without(modules: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command where these modules cannot be imported."""
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({modules}));"
        "from seqserve_client.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_help_lists_every_subcommand() -> None:
    done = run("--help")
    assert done.returncode == 0
    names = {entry.name for entry in entry_points(group=COMMANDS)}
    assert {"classify", "models", "serve", "train"} <= names
    listed = {line.strip("│ ").split(" ")[0] for line in done.stdout.splitlines()}
    assert names <= listed


def test_help_lists_what_cannot_be_imported_as_such() -> None:
    done = run_without(["seqserve_server.commands"], "--help")
    assert done.returncode == 0
    assert "train" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.strip("│ ").startswith("serve ")]
    assert "Not installed: call it to see what it needs." in line


def test_a_missing_extra_is_named() -> None:
    done = run_without(["seqserve_server.commands"], "serve", "models/", "--address", "x")
    assert done.returncode == 1
    assert done.stderr == (
        "seqserve serve: seqserve_server.commands is not installed. It comes with: "
        "pip install 'seqserve[server]'\n"
    )


def test_a_library_that_turns_out_missing_is_named(tmp_path: Path) -> None:
    done = run_without(["seqserve_data"], "classify", "japanese-vowels", "--model", "m")
    assert done.returncode == 1
    assert "seqserve classify: seqserve_data is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    path = tmp_path / "some.csv"
    path.write_text("id,x\na,1\n")
    done = run_without(["pyarrow"], "classify", str(path), "--model", "m")
    assert done.returncode == 1
    assert "pip install 'seqserve[data]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_version_is_printed() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"seqserve {__version__}\n")


def test_a_misspelt_subcommand_is_a_wrong_usage() -> None:
    done = run("clasify")
    assert done.returncode == 2
    assert "classify" in done.stderr


def test_only_the_room_that_is_called_is_imported() -> None:
    script = (
        "import sys, atexit\n"
        "sys.argv = ['seqserve', 'models', '--help']\n"
        "rooms = ('seqserve_server', 'seqserve_export', 'numpy', 'grpc', 'torch', 'onnxruntime')\n"
        "atexit.register(lambda: print([name for name in rooms if name in sys.modules]))\n"
        "from seqserve_client.cli import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("batch_size", ["1000", "10"], ids=["one request", "many requests"])
def test_an_interrupt_ends_quietly(batch_size: str) -> None:
    begun, over = threading.Event(), threading.Event()

    def wait(_: object) -> str:
        begun.set()
        over.wait(timeout=60)
        return "0"

    with FakeServer(answer=wait, features=5) as server:
        process = subprocess.Popen(
            [
                *(*SEQSERVE, "classify", "random", "--model", "model"),
                *("--batch-size", batch_size, "--server", server.address),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert begun.wait(timeout=60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            over.set()
            process.kill()
    assert (out, err) == ("", "")
    # Exiting with 130, or ended by the signal itself: a shell tells 130 of either.
    assert process.returncode in (130, -signal.SIGINT)


@pytest.mark.parametrize("output", ["table", "csv", "json"])
def test_a_reader_that_goes_away_ends_it_quietly(output: str) -> None:
    with FakeServer(features=5) as server:
        process = subprocess.Popen(
            [
                *(*SEQSERVE, "classify", "random", "--model", "model"),
                *("--output", output, "--server", server.address),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        err = process.stderr.read()
        process.wait(timeout=60)
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert "BrokenPipe" not in err


def test_a_terminal_gets_a_drawn_table_and_the_whole_of_it() -> None:
    leader, follower = pty.openpty()
    with FakeServer(["[red]", "b"], features=5, answer="[red]") as server:
        process = subprocess.Popen(
            [*SEQSERVE, "models", "--server", server.address],
            stdout=follower,
            stderr=subprocess.PIPE,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        process.wait(timeout=60)
    os.close(follower)
    with open(leader, "rb", buffering=0) as screen:
        shown = screen.read(65536).decode()
    assert "\x1b[" in shown
    assert "[red]" in shown  # a label is no markup
