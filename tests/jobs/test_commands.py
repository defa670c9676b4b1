"""`seqserve score`, as its users see it: real files, a real repository, a real server."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from seqserve import signature
from seqserve_client.cli import COMMANDS, command_line
from seqserve_jobs import answering
from seqserve_jobs.engines.embedded import EmbeddedEngine
from seqserve_jobs.errors import JobStopped
from seqserve_jobs.job import Job, JobOptions, score_files
from tests.integration.conftest import in_process, serving

if TYPE_CHECKING:
    from tests.conftest import ModelRepository, RandomModel

SEQSERVE = Path(sys.executable).parent / "seqserve"
COUNT = 200
LABELS = [f"class {index}" for index in range(4)]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@dataclass(frozen=True)
class Sequences:
    """What is in a file."""

    values: list[list[list[float]]] = field(repr=False)

    @classmethod
    def random(cls, count: int, longest: int = 29) -> Sequences:
        rng = np.random.default_rng(5)
        lengths = rng.integers(1, longest, count, endpoint=True)
        return cls([rng.normal(size=(int(n), 3)).astype(np.float32).tolist() for n in lengths])

    def write(self, path: Path) -> Path:
        """A row a sequence: `id`, `where` and `values`."""
        table = pa.table(
            {
                "id": pa.array(range(len(self.values)), pa.int64()),
                "where": [f"here {index}" for index in range(len(self.values))],
                "values": pa.array(self.values, pa.list_(pa.list_(pa.float32()))),
            }
        )
        parquet.write_table(table, path)
        return path


@pytest.fixture(scope="module")
def models(repository: ModelRepository) -> Path:
    return repository(speakers={"seed": 1}, other={"seed": 2, "features": 5})


@pytest.fixture(scope="module")
def sequences() -> Sequences:
    return Sequences.random(COUNT)


@pytest.fixture(scope="module")
def file(sequences: Sequences, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sequences.write(tmp_path_factory.mktemp("input") / "sequences.parquet")


@pytest.fixture(scope="module")
def flawed(sequences: Sequences, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a NaN in the third sequence and nothing in the fifth."""
    values = [[list(step) for step in sequence] for sequence in sequences.values]
    values[2][0][1] = float("nan")
    values[4] = []
    return Sequences(values).write(tmp_path_factory.mktemp("input") / "flawed.parquet")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs `seqserve score` in this process."""
    app = command_line([one for one in entry_points(group=COMMANDS) if one.name == "score"])

    def invoke(*words: str | Path) -> Done:
        with pytest.raises(SystemExit) as ended:
            app(["score", *map(str, words)])
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, *capfd.readouterr())

    return invoke


def called(*words: str | Path, cwd: Path, **environment: str) -> Done:
    """Runs `seqserve score` in a process of its own."""
    process = subprocess.run(
        [SEQSERVE, "score", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return Done(process.returncode, process.stdout, process.stderr)


@contextmanager
def begun(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """`seqserve score` in a process of its own, with a line of progress for every shard.

    It cannot be far ahead of whoever reads these: they fit into no pipe of a page.
    """
    process = subprocess.Popen(
        [SEQSERVE, "score", *words, "--progress", "lines", "--interval", "0"],
        stderr=subprocess.PIPE,
        pipesize=4096,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Until standard error has a line with that text."""
    assert process.stderr
    printed = []
    for line in process.stderr:
        printed.append(line)
        if text in line:
            return
    raise AssertionError("".join(printed))


def only_line(done: Done) -> str:
    """Of standard error, without the command's name."""
    [line] = done.stderr.splitlines()
    assert line.startswith("seqserve score: "), done.stderr
    return line.removeprefix("seqserve score: ")


def test_every_sequence_is_answered_in_order_and_counted(
    models: Path, file: Path, sequences: Sequences, tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(models)  # where none is named, it is looked for here
    done = called(file, "scores.parquet", "--model", "speakers", "--logits", cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
    scores = parquet.read_table(tmp_path / "scores.parquet")
    assert scores.column("id").to_pylist() == list(range(COUNT))
    graph = in_process(models, "speakers")
    for values, row in zip(sequences.values, scores.to_pylist(), strict=True):
        outputs = graph(np.array([values], np.float32), np.array([len(values)], np.int32))
        probabilities = outputs.probabilities[0].tolist()
        assert [row[f"probability_{label}"] for label in LABELS] == probabilities
        assert row["logits"] == outputs.logits[0].tolist()
        assert row["label"] == LABELS[int(np.argmax(probabilities))]
        assert (row["model_version"], row["error"]) == (1, None)
    title, *rest = done.stderr.splitlines()
    assert title.startswith("speakers version 1 scores 1 file (.parquet), one row a sequence; ")
    assert "200 sequences = 200 scored + 0 refused" in rest
    assert rest[-1] == "output: scores.parquet"


def test_a_service_and_this_process_write_the_same_bytes(
    run: Run, models: Path, file: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    words = (file, "--model", "speakers", "--logits", "--keep", "where")
    with serving(models) as address:
        assert run(*words, there, "--server", address, "--window", "2").exit_code == 0
    assert run(*words, here, "--repository", models, "--lanes", "2").exit_code == 0
    assert here.read_bytes() == there.read_bytes()


def test_refused_sequences_are_counted_by_reason_and_end_with_3(
    run: Run, models: Path, flawed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.parquet"
    words = (flawed, output, "--model", "speakers", "--repository", models)
    done = run(*words, "--summary", "-", "--keep", "where", "--progress", "off")
    assert done.exit_code == 3
    summary = json.loads(done.stdout)
    assert (summary["sequences"], summary["scored"]) == (COUNT, COUNT - 2)
    assert sum(summary["refused"].values()) == 2
    assert (summary["finished"], summary["model"], summary["version"]) == (True, "speakers", 1)
    assert 0 < summary["useful_step_fraction"] <= 1
    rows = parquet.read_table(output).to_pylist()
    assert [row["id"] for row in rows] == list(range(COUNT))
    assert [row["id"] for row in rows if row["error"] is not None] == [2, 4]
    assert [row["id"] for row in rows if row["label"] is None] == [2, 4]
    assert rows[2]["where"] == "here 2"
    # What went wrong is worth a line even where nothing else is.
    assert f"{COUNT} sequences = {COUNT - 2} scored + 2 refused" in done.stderr.splitlines()
    for reason in summary["refused"]:
        assert f"  1: {reason}" in done.stderr


def test_without_refused_sequences_progress_off_says_nothing(
    run: Run, models: Path, file: Path, tmp_path: Path
) -> None:
    words = (file, tmp_path / "scores.csv", "--model", "speakers", "--repository", models)
    assert run(*words, "--progress", "off") == Done(0, "", "")
    assert len(csv.read_csv(tmp_path / "scores.csv")) == COUNT


def test_refused_sequences_can_be_left_out_or_end_the_job(
    run: Run, models: Path, flawed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.jsonl"
    words = (flawed, output, "--model", "speakers", "--repository", models)
    failed = run(*words, "--on-error", "fail", "--progress", "off")
    assert failed.exit_code == 1
    assert "sequence 2" in only_line(failed)
    assert not output.exists()
    assert run(*words, "--on-error", "skip").exit_code == 3
    ids = [json.loads(line)["id"] for line in output.read_text().splitlines()]
    assert ids == [index for index in range(COUNT) if index not in (2, 4)]


def test_a_finished_job_says_so_and_does_nothing(
    run: Run, models: Path, file: Path, tmp_path: Path
) -> None:
    output, told = tmp_path / "scores.parquet", tmp_path / "summary.json"
    words = (file, output, "--model", "speakers", "--repository", models, "--summary", told)
    assert run(*words).exit_code == 0
    before = output.stat()
    first = json.loads(told.read_text())
    done = run(*words)
    assert done.exit_code == 0
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    again = json.loads(told.read_text())
    assert again["shards_done_before"] == again["shards"] == first["shards"]
    assert again["scored"] == first["scored"] == COUNT
    assert "were done before" in done.stderr


def test_the_summary_of_a_job_that_fails_says_so_and_not_what_the_one_before_did(
    run: Run, models: Path, file: Path, tmp_path: Path
) -> None:
    told = tmp_path / "summary.json"
    words = (file, tmp_path / "scores", "--model", "speakers", "--repository", models)
    assert run(*words, "--summary", told).exit_code == 0
    changed = run(*words, "--summary", told, "--logits")
    assert changed.exit_code == 1
    failed = json.loads(told.read_text())
    assert failed["error"] in changed.stderr
    assert "--logits is True" in failed["error"]
    assert (failed["finished"], failed["model"]) == (False, "speakers")
    assert "sequences" not in failed  # it was not begun

    assert run(*words, "--summary", told, "--restart").exit_code == 0
    assert json.loads(told.read_text())["finished"]


@contextmanager
def server_process(models: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of the repository, once it is ready, and its address."""
    server = subprocess.Popen(
        [SEQSERVE, "serve", models, "--address", "127.0.0.1:0", "--metrics-address", "off"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr
    try:
        listening = next(line for line in server.stderr if "listening on" in line)
        wait_for(server, " ready in ")
        yield server, listening.split("listening on ")[1].split()[0]
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


@pytest.mark.parametrize(
    ("signal_number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_the_first_signal_finishes_what_is_under_way_and_the_same_command_goes_on(
    models: Path, tmp_path: Path, signal_number: signal.Signals, exit_code: int
) -> None:
    file = Sequences.random(2000).write(tmp_path / "sequences.parquet")
    whole, output, told = (tmp_path / name for name in ("whole.csv", "scores.csv", "told.json"))
    options = ("--model", "speakers", "--repository", models, "--shard-sequences", "10")
    with begun(file, output, *options, "--summary", told) as process:
        wait_for(process, " sequences, ")
        process.send_signal(signal_number)
        assert process.stderr
        rest = process.stderr.read()
        assert process.wait() == exit_code, rest
    assert "finishing the shards under way" in rest
    assert "the same command goes on from there" in rest.splitlines()[-1]
    assert not output.exists()
    stopped = json.loads(told.read_text())
    assert not stopped["finished"]
    assert 0 < stopped["shards"] < 200
    again = called(file, output, *options, "--summary", "-", cwd=tmp_path)
    assert again.exit_code == 0, again.stderr
    summary = json.loads(again.stdout)
    assert (summary["shards"], summary["shards_done_before"]) == (200, stopped["shards"])
    with EmbeddedEngine(models, "speakers") as engine:
        score_files(JobOptions(str(file), str(whole)), engine)
    assert output.read_bytes() == whole.read_bytes()


def test_a_second_signal_ends_the_process_at_once(models: Path, tmp_path: Path) -> None:
    file = Sequences.random(2000).write(tmp_path / "sequences.parquet")
    with server_process(models) as (server, address):
        words = (file, tmp_path / "scores.csv", "--model", "speakers", "--server", address)
        with begun(*words, "--shard-sequences", "10") as process:
            wait_for(process, " sequences, ")
            server.send_signal(signal.SIGSTOP)  # what is under way is never answered
            process.send_signal(signal.SIGINT)
            wait_for(process, "finishing the shards under way")
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130


def test_a_signal_ends_the_wait_for_a_service_that_is_away(models: Path, tmp_path: Path) -> None:
    file = Sequences.random(2000).write(tmp_path / "sequences.parquet")
    output, options = tmp_path / "scores.csv", ("--model", "speakers", "--shard-sequences", "10")
    with (
        server_process(models) as (server, address),
        begun(file, output, *options, "--server", address) as process,
    ):
        wait_for(process, " sequences, ")
        server.kill()
        wait_for(process, "waiting for it, for up to ")
        process.send_signal(signal.SIGINT)
        assert process.stderr
        rest = process.stderr.read()
        assert process.wait() == 130, rest
    assert "the same command goes on from there" in rest.splitlines()[-1]
    with server_process(models) as (_, address):
        again = called(file, output, *options, "--server", address, "--summary", "-", cwd=tmp_path)
        assert again.exit_code == 0, again.stderr
    with EmbeddedEngine(models, "speakers") as engine:
        score_files(JobOptions(str(file), str(tmp_path / "whole.csv")), engine)
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_terminal_gets_a_bar(models: Path, file: Path, tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [SEQSERVE, "score", file, tmp_path / "scores.csv", "--model", "speakers"],
        env={**os.environ, "SEQSERVE_REPOSITORY": str(models), "TERM": "xterm", "COLUMNS": "120"},
        stderr=end,
    )
    os.close(end)
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # how a terminal says that nobody writes any more
        pass
    finally:
        os.close(terminal)
    assert process.wait() == 0, shown
    assert "100%" in shown.decode()
    assert "200 of 200 rows, 200 sequences, " in shown.decode()
    assert "200 sequences = 200 scored + 0 refused" in shown.decode()


def test_a_job_goes_on_with_the_version_that_it_was_begun_with(
    run: Run,
    repository: ModelRepository,
    random_model: RandomModel,
    file: Path,
    tmp_path: Path,
) -> None:
    from seqserve_export.publish import publish

    models = repository(speakers={"seed": 1})
    output = tmp_path / "scores.parquet"
    stop = threading.Event()
    stop.set()
    options = JobOptions(str(file), str(output))
    with EmbeddedEngine(models, "speakers") as engine, pytest.raises(JobStopped):
        score_files(options, engine, stop=stop)
    publish(random_model(seed=9), models, "speakers")
    words = (file, output, "--model", "speakers", "--repository", models)
    assert run(*words).exit_code == 0
    assert set(parquet.read_table(output).column("model_version").to_pylist()) == {1}
    other = run(*words, "--version", "2")
    assert other.exit_code == 1
    assert "the model is speakers version 2, the job was begun with" in other.stderr
    assert run(*words, "--restart").exit_code == 0
    assert set(parquet.read_table(output).column("model_version").to_pylist()) == {2}


def test_a_flag_goes_before_the_environment(
    run: Run, models: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQSERVE_SERVER", "127.0.0.1:1")
    words = (file, tmp_path / "scores.csv", "--model", "speakers")
    assert run(*words, "--repository", models).exit_code == 0
    monkeypatch.setenv("SEQSERVE_REPOSITORY", str(models))
    done = run(*words)
    assert done.exit_code == 2
    assert "both told" in only_line(done)


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["nothing.parquet", "o.csv"], 1, "nothing.parquet: no such file"),
        (["*.parquet", "o.csv", "--keep", "when"], 1, "has no column 'when' to keep; it has 'id'"),
        (["*.parquet", "o.csv", "--id", "who"], 1, "has no column 'who'; it has 'id', 'where'"),
        (["*.parquet", "o.csv", "--model", "nobody"], 1, "models: other, speakers"),
        (["*.parquet", "o.csv", "--features", "where"], 1, "the model takes 3 features"),
        (["*.parquet", "o.csv", "--version", "7"], 1, "has no version 7 of speakers; it has 1"),
        (["*.parquet", "o.csv", "--top-k", "9"], 2, "--top-k is 9; speakers has 4 classes"),
        (["*.parquet", "taken.csv"], 1, "taken.csv"),
        (["*.parquet", "taken.csv/o.csv"], 1, "taken.csv/o.csv"),
        (["damaged.parquet", "o.csv"], 1, "damaged.parquet: "),
        (["*.parquet", "o.csv", "--server", "x:1"], 2, "leave the other out"),
        (["*.parquet", "o.csv", "--window", "3"], 2, "--window is of no effect without --server"),
        (["*.parquet", "o.csv", "--storage-options", "anon"], 2, "is no JSON object"),
        (["*.parquet", "o.csv", "--summary", "no/where.json"], 2, "there is no such folder"),
        (["*.parquet", "o.csv", "--summary", "."], 2, "--summary .: is a folder"),
        (["*.parquet", "o.csv", "--summary", "o.csv"], 2, "the output is there"),
        (["*.parquet", "o.csv", "--summary", "sequences.parquet"], 2, "is read there"),
        (["*.parquet", "o.csv", "--summary", "s.parquet"], 2, "lies in the input, *.parquet"),
        (["*.parquet", "o.parquet"], 2, "o.parquet: it lies in the input, *.parquet; name another"),
        (["*.parquet", "o.csv.gz"], 2, ".gz is no form of output; name a file .parquet, .csv"),
        (["*.parquet", "o.feather"], 2, "or a folder, whose name has no suffix"),
        (["*.parquet", "o.csv", "--repository", "nowhere"], 1, "nowhere: "),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_told_in_a_line(
    run: Run,
    models: Path,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    exit_code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file.name).symlink_to(file)
    (tmp_path / "taken.csv").write_text("somebody else's")
    if words[0] == "damaged.parquet":
        (tmp_path / words[0]).write_bytes(file.read_bytes()[:-100])
    always = {"--repository": str(models), "--model": "speakers"}
    rest = [word for option in always.keys() - words for word in (option, always[option])]
    done = run(*words, *rest)
    assert done.exit_code == exit_code, done.stderr
    assert message in only_line(done)
    assert (tmp_path / "taken.csv").read_text() == "somebody else's"
    assert not (tmp_path / "o.csv").exists()


def test_a_summary_goes_through_what_is_no_file_and_where_links_lead(
    models: Path, file: Path, tmp_path: Path
) -> None:
    words = (file, "scores.CSV", "--model", "speakers", "--repository", models)
    first = called(*words, "--summary", "/dev/stdout", cwd=tmp_path)
    assert json.loads(first.stdout)["finished"], first.stderr
    assert called(*words, "--summary", os.devnull, cwd=tmp_path).exit_code == 0
    assert Path(os.devnull).is_char_device()
    assert len(csv.read_csv(tmp_path / "scores.CSV")) == COUNT
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        done = called(*words, "--summary", "pipe", cwd=tmp_path)
        assert done.exit_code == 0, done.stderr
        assert reader.stdout
        assert json.load(reader.stdout)["finished"]
    assert (tmp_path / "pipe").is_fifo()
    assert called(*words, "--summary", "link.json", cwd=tmp_path).exit_code == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["finished"]


def test_where_nobody_can_compute_both_ways_are_named(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(file, "o.csv", "--model", "speakers")
    assert done.exit_code == 2
    assert "--server HOST:PORT or --repository FOLDER" in only_line(done)
    monkeypatch.setattr(answering, "find_spec", lambda _: None)
    done = run(file, "o.csv", "--model", "speakers")
    assert done.exit_code == 2
    assert "pip install 'seqserve[server]'" in only_line(done)


def test_a_model_that_nobody_trusted_has_signed_is_refused_where_keys_are_told(
    run: Run, repository: ModelRepository, file: Path, tmp_path: Path
) -> None:
    models = repository(speakers={})
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(signature.new_key(tmp_path / "key.pem"))
    words = (file, tmp_path / "o.csv", "--model", "speakers", "--repository", models)
    refused = run(*words, "--trusted-keys", trusted)
    assert refused.exit_code == 1
    assert "manifest.json.sig: is missing; sign it with: seqserve sign " in only_line(refused)
    signature.sign(models / "speakers" / "1", tmp_path / "key.pem")
    assert run(*words, "--trusted-keys", trusted).exit_code == 0
    unreadable = run(*words, "--trusted-keys", tmp_path / "no.pem", "--restart")
    assert unreadable.exit_code == 1
    assert "--trusted-keys" in only_line(unreadable)


def test_a_missing_library_is_named_with_what_brings_it(file: Path, tmp_path: Path) -> None:
    # As if pyarrow were not installed: an import of it fails in the same way.
    without = (
        "import sys; sys.modules['pyarrow'] = None; from seqserve_client.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", without, "score", file, "o.csv", "--model", "speakers"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert only_line(Done(done.returncode, done.stdout, done.stderr)) == (
        "pyarrow is not installed. It comes with: pip install 'seqserve[jobs]'"
    )


@pytest.mark.parametrize("imported", ["seqserve_jobs.commands", "pyarrow"])
def test_a_ctrl_c_while_importing_ends_it_without_a_traceback(
    file: Path, tmp_path: Path, imported: str
) -> None:
    interrupting = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {imported!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from seqserve_client.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", interrupting, "score", file, "o.csv", "--model", "speakers"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_a_service_that_is_not_there_is_told_in_a_line(
    run: Run, file: Path, tmp_path: Path
) -> None:
    done = run(
        *(file, tmp_path / "o.csv", "--model", "speakers"),
        *("--server", "127.0.0.1:1", "--timeout", "0.2", "--patience", "0"),
    )
    assert done.exit_code == 1
    assert "127.0.0.1:1" in only_line(done)


def test_of_two_jobs_on_one_output_the_second_is_refused(
    run: Run, models: Path, file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.parquet"
    words = (file, output, "--model", "speakers", "--repository", models)
    with (
        EmbeddedEngine(models, "speakers") as engine,
        Job(JobOptions(str(file), str(output)), engine.model),
    ):
        refused = run(*words)
    assert refused.exit_code == 1
    assert str(output) in only_line(refused)
    assert run(*words).exit_code == 0


def test_another_option_is_refused_by_name_and_restart_begins_anew(
    run: Run, models: Path, file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.parquet"
    words = (file, output, "--model", "speakers", "--repository", models)
    assert run(*words).exit_code == 0
    refused = run(*words, "--top-k", "2")
    assert refused.exit_code == 1
    assert "--top-k is 2, the job was begun with 0" in only_line(refused)
    assert "--restart" in only_line(refused)
    assert run(*words, "--top-k", "2", "--restart").exit_code == 0
    assert "top_labels" in parquet.read_schema(output).names


def test_a_glob_that_the_shell_has_spread_is_the_same_input(
    run: Run, models: Path, file: Path, tmp_path: Path
) -> None:
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).symlink_to(file)
    words = ("--model", "speakers", "--repository", models)
    for output, inputs in {
        "quoted.csv": [tmp_path / "?.parquet"],
        "spread.csv": [tmp_path / "a.parquet", tmp_path / "b.parquet"],
    }.items():
        assert run(*inputs, tmp_path / output, *words).exit_code == 0
    assert (tmp_path / "quoted.csv").read_bytes() == (tmp_path / "spread.csv").read_bytes()
    assert len(csv.read_csv(tmp_path / "quoted.csv")) == 2 * COUNT
