"""A job that was begun: it goes on, is finished, is another, or somebody else's."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqserve_data import Columns, DataError
from seqserve_data.stream import Input
from seqserve_jobs import joining
from seqserve_jobs.engines.embedded import EmbeddedEngine
from seqserve_jobs.engines.engine import Engine
from seqserve_jobs.errors import (
    BadSequence,
    EngineError,
    InvalidJob,
    JobChanged,
    JobStopped,
    OutputError,
    OutputInUse,
)
from seqserve_jobs.job import JobOptions, OnError, score_files
from seqserve_jobs.ledger import Ledger, begun
from seqserve_jobs.output import Output
from seqserve_jobs.summary import Summary
from tests.jobs.conftest import steps_table, write_steps
from tests.jobs.watched import Watched

SEQUENCES = 40
SHARDS = 8
PER_SHARD = SEQUENCES // SHARDS


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_steps(tmp_path / "in" / "a.parquet", SEQUENCES)


@pytest.fixture(params=["out.parquet", "out"], ids=["file", "folder"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def options(source: Path, output: Path, **more: object) -> JobOptions:
    return JobOptions(source, str(output), max_sequences=PER_SHARD, **more)  # type: ignore[arg-type]


def content(output: Path) -> dict[str, bytes]:
    """Every file of an output, but for what a job keeps for itself."""
    if output.is_file():
        return {output.name: output.read_bytes()}
    return {file.name: file.read_bytes() for file in sorted(output.glob("part-*"))}


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def stopped_early(options: JobOptions, engine: Engine, after: int = 3) -> Summary:
    """Stops a job while a shard is under way, so that some are done and some not."""
    stop = threading.Event()

    def at(batch: int) -> None:
        if batch == after:
            stop.set()

    with pytest.raises(JobStopped, match="the same command goes on from there") as stopped:
        score_files(options, Watched(engine, at), stop=stop)
    return stopped.value.summary


def test_a_job_that_was_stopped_ends_what_is_under_way_and_goes_on_from_there(
    tmp_path: Path, source: Path, output: Path, engine: Engine
) -> None:
    score_files(options(source, tmp_path / "whole" / output.name), engine)

    stopped = stopped_early(options(source, output), engine)
    watched = Watched(engine)
    summary = score_files(options(source, output), watched)

    assert not stopped.finished
    assert stopped.shards == 4  # the one that was under way too
    assert summary.shards_done_before == 4
    assert [len(batch) for batch in watched.batches] == [PER_SHARD] * 4
    assert summary.sequences == summary.scored == SEQUENCES
    assert content(output) == content(tmp_path / "whole" / output.name)


def test_a_finished_job_is_not_done_again(source: Path, output: Path, engine: Engine) -> None:
    first = score_files(options(source, output), engine)
    written = everything(output.parent)
    watched = Watched(engine)

    second = score_files(options(source, output), watched)

    assert not watched.batches
    assert everything(output.parent) == written
    assert second.nothing_to_do
    assert not first.nothing_to_do
    assert (second.sequences, second.steps, second.files) == (
        first.sequences,
        first.steps,
        first.files,
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"top_k": 2}, "--top-k is 2, the job was begun with 0"),
        ({"logits": True}, "--logits is True, the job was begun with False"),
        ({"keep": ("speaker",)}, "--keep is speaker, the job was begun with none"),
        (
            {"on_error": OnError.SKIP},
            "--on-error is skip, the job was begun with record",
        ),
        (
            {"columns": Columns(id="speaker")},
            "--id is speaker, the job was begun with id",
        ),
    ],
    ids=["top_k", "logits", "keep", "on_error", "columns"],
)
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "begun"])
def test_other_options_are_refused_and_named(
    source: Path,
    output: Path,
    engine: Engine,
    changed: dict[str, object],
    named: str,
    finished: bool,
) -> None:
    if finished:
        score_files(options(source, output), engine)
    else:
        stopped_early(options(source, output), engine)
    before = everything(output.parent)

    with pytest.raises(JobChanged, match=f"{named}.*; restart the job"):
        score_files(options(source, output, **changed), engine)

    assert everything(output.parent) == before


def test_another_input_is_refused_and_its_files_are_named(
    source: Path, output: Path, engine: Engine
) -> None:
    folder = source.parent
    write_steps(folder / "b.parquet", 5, first_id=SEQUENCES)
    stopped_early(options(folder, output), engine)

    write_steps(folder / "b.parquet", 9, first_id=SEQUENCES)
    with pytest.raises(JobChanged, match=r"the input changed: b.parquet has \d+ bytes, it had \d+"):
        score_files(options(folder, output), engine)
    (folder / "b.parquet").rename(folder / "c.parquet")
    with pytest.raises(JobChanged, match=r"c.parquet is new, b.parquet is gone; restart the job"):
        score_files(options(folder, output), engine)
    score_files(options(folder, output, restart=True), engine)


def test_an_input_of_the_same_size_and_another_content_is_refused(
    source: Path, output: Path, engine: Engine
) -> None:
    raw = steps_table(SEQUENCES)
    pq.write_table(raw, source, compression="none", use_dictionary=False, write_statistics=False)
    stopped_early(options(source, output), engine)
    size = source.stat().st_size
    names = [name if name != "feature 0" else "feature 1" for name in raw.column_names]
    names[2] = "feature 0"
    pq.write_table(
        raw.rename_columns(names),
        source,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )

    assert source.stat().st_size == size
    with pytest.raises(JobChanged, match="the input changed: other contents, of the same size"):
        score_files(options(source, output), engine)


def test_an_input_that_was_moved_as_it_is_is_the_same(
    tmp_path: Path, source: Path, output: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_early(options(source, output), engine)
    shutil.copytree(source.parent, tmp_path / "elsewhere" / "in")
    monkeypatch.chdir(tmp_path / "elsewhere")

    summary = score_files(options(Path("in/a.parquet"), output), engine)

    assert summary.shards_done_before == 4


def test_another_version_of_the_model_is_refused_and_the_begun_one_can_be_asked_for(
    tmp_path: Path, source: Path, output: Path, engine: Engine, models: Path
) -> None:
    assert begun(str(output)) is None
    stopped_early(options(source, output), engine)
    newer = tmp_path / "models"
    shutil.copytree(models / "speakers", newer / "speakers")
    manifest = (newer / "speakers" / "1" / "manifest.json").read_text()
    shutil.copytree(newer / "speakers" / "1", newer / "speakers" / "2")
    (newer / "speakers" / "2" / "manifest.json").write_text(
        manifest.replace('"version": "1"', '"version": "2"').replace('"version": 1', '"version": 2')
    )

    with (
        EmbeddedEngine(newer, "speakers", lanes=1) as newest,
        pytest.raises(
            JobChanged,
            match="the model is speakers version 2, the job was begun with speakers version 1",
        ),
    ):
        score_files(options(source, output), newest)
    job = begun(str(output))
    assert job is not None
    assert (job.model, job.version, job.digest) == ("speakers", 1, engine.model.digest)
    with EmbeddedEngine(newer, "speakers", job.version, lanes=1) as same:
        assert score_files(options(source, output), same).shards_done_before == 4


def test_a_restart_begins_anew(source: Path, output: Path, engine: Engine) -> None:
    score_files(options(source, output, top_k=1), engine)
    watched = Watched(engine)

    summary = score_files(options(source, output, restart=True), watched)

    assert len(watched.batches) == SHARDS
    assert summary.shards_done_before == 0


def test_a_restart_of_nothing_is_a_beginning(source: Path, output: Path, engine: Engine) -> None:
    assert score_files(options(source, output, restart=True), engine).finished


@pytest.mark.parametrize("restart", [True, False], ids=["restart", "begin"])
def test_what_no_job_made_is_neither_written_over_nor_removed(
    tmp_path: Path, source: Path, engine: Engine, restart: bool
) -> None:
    (tmp_path / "file.parquet").write_bytes(b"precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part-00000.parquet").write_bytes(b"precious")
    (tmp_path / "other.csv.parts").mkdir()
    (tmp_path / "other.csv.parts" / "notes.txt").write_bytes(b"precious")
    before = everything(tmp_path)

    for name, found in (
        ("file.parquet", "file.parquet"),
        ("folder", "part-00000.parquet"),
        ("other.csv", "notes.txt"),
    ):
        with pytest.raises(OutputError, match=f"{found} is there already, and no job"):
            score_files(options(source, tmp_path / name, restart=restart), engine)

    assert everything(tmp_path) == before
    assert os.listdir(tmp_path / "folder") == ["part-00000.parquet"]


def test_a_restart_refuses_a_folder_into_which_somebody_put_a_file(
    source: Path, tmp_path: Path, engine: Engine
) -> None:
    output = tmp_path / "out"
    score_files(options(source, output), engine)
    (output / "notes.txt").write_bytes(b"precious")
    before = everything(output)

    with pytest.raises(OutputError, match=r"notes.txt is there already"):
        score_files(options(source, output, restart=True), engine)

    assert everything(output) == before


def test_of_two_jobs_on_one_output_the_second_is_refused(
    source: Path, output: Path, engine: Engine
) -> None:
    refused: list[OutputInUse] = []

    def run_another(batch: int) -> None:
        if batch == 2:
            with pytest.raises(OutputInUse, match=f"process {os.getpid()} on ") as raised:
                score_files(options(source, output, restart=True), engine)
            refused.append(raised.value)

    summary = score_files(options(source, output), Watched(engine, run_another))

    assert len(refused) == 1
    assert summary.scored == SEQUENCES


@pytest.mark.parametrize("taken", ["by another job", "by a foreign file"])
def test_an_output_that_is_taken_is_refused_before_the_input_is_read(
    source: Path, output: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    def fail(_: object) -> str:
        raise AssertionError

    monkeypatch.setattr(Input, "fingerprint", fail)
    with ExitStack() as stack:
        if taken == "by another job":
            other = Output.at(str(output), {})
            stack.enter_context(other.files.lock(other.lock))
        else:
            output.mkdir()
            (output / "notes.txt").write_bytes(b"precious")
        with pytest.raises((OutputInUse, OutputError), match=r"writes there|is there already"):
            score_files(options(source, output), engine)


def test_an_output_that_is_read_as_the_input_is_refused(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    with pytest.raises(InvalidJob, match=r"a.parquet is read there; name another output"):
        score_files(options(source.parent, source.parent), engine)
    with pytest.raises(InvalidJob, match=r"a.parquet is read there; name another output"):
        score_files(options(source, source), engine)

    assert os.listdir(source.parent) == ["a.parquet"]


@pytest.mark.parametrize(
    ("read", "written"),
    [
        ("in", "in/out.parquet"),
        ("in", "in/deeper/out"),
        ("in/*", "in/out.parquet"),
        ("in/**/*.parquet", "in/deeper/out"),
    ],
)
def test_an_output_that_the_next_run_would_read_is_refused(
    tmp_path: Path, source: Path, engine: Engine, read: str, written: str
) -> None:
    with pytest.raises(InvalidJob, match=r"it lies in the input, .*; name another output"):
        score_files(options(tmp_path / read, tmp_path / written), engine)

    assert os.listdir(source.parent) == ["a.parquet"]


def test_an_output_that_readers_of_the_folder_pass_over_may_lie_in_it(
    source: Path, engine: Engine
) -> None:
    output = source.parent / "_scores" / "out.parquet"
    score_files(options(source.parent, output), engine)

    assert score_files(options(source.parent, output), engine).nothing_to_do


def test_a_part_that_was_lost_is_computed_again(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    output = tmp_path / "out"
    score_files(options(source, output), engine)
    before = content(output)
    (output / "part-00003.parquet").unlink()
    watched = Watched(engine)

    summary = score_files(options(source, output), watched)

    assert len(watched.batches) == 1
    assert content(output) == before
    assert summary.shards_done_before == SHARDS - 1


def test_parts_of_another_form_as_earlier_builds_wrote_them_are_computed_again_and_removed(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    output = tmp_path / "out.parquet"
    stopped = stopped_early(options(source, output), engine)
    for part in output.with_name("out.parquet.parts").glob("part-*.arrow"):
        table = pa.ipc.open_file(part.read_bytes()).read_all()
        pq.write_table(table, part.with_suffix(".parquet"))
        part.unlink()
    watched = Watched(engine)

    score_files(options(source, output), watched)

    assert stopped.shards
    assert len(watched.batches) == SHARDS
    assert sorted(os.listdir(tmp_path)) == ["in", "out.parquet", "out.parquet.job.json"]
    score_files(options(source, tmp_path / "whole.parquet"), engine)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize(
    "record", [b"", b"{}", b"[1]", b"\xff"], ids=["empty", "{}", "list", "bytes"]
)
def test_a_record_that_cannot_be_read_is_none(
    tmp_path: Path, source: Path, engine: Engine, record: bytes
) -> None:
    output = tmp_path / "out"
    score_files(options(source, output), engine)
    before = content(output)
    (output / "_seqserve" / "shard-00001.json").write_bytes(record)
    watched = Watched(engine)

    score_files(options(source, output), watched)

    assert len(watched.batches) == 1
    assert content(output) == before


def test_a_part_that_was_damaged_is_not_made_part_of_the_file(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    output = tmp_path / "out.parquet"
    stopped_early(options(source, output), engine)
    part = tmp_path / "out.parquet.parts" / "part-00001.arrow"
    part.write_bytes(part.read_bytes()[::-1])

    with pytest.raises(OutputError, match=r"part-00001.arrow: is not what was written there"):
        score_files(options(source, output), engine)
    assert not output.exists()
    part.unlink()
    score_files(options(source, output), engine)

    score_files(options(source, tmp_path / "whole.parquet"), engine)
    assert content(output)["out.parquet"] == (tmp_path / "whole.parquet").read_bytes()


def of_the_same_size(file: Path) -> bytes:
    return file.read_bytes()[::-1]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "arrow"])
@pytest.mark.parametrize("other", [lambda _: b"precious", of_the_same_size], ids=["size", "bytes"])
def test_a_file_that_was_changed_after_the_job_is_not_taken_for_its_own(
    tmp_path: Path, source: Path, engine: Engine, suffix: str, other: Callable[[Path], bytes]
) -> None:
    output = tmp_path / f"out.{suffix}"
    score_files(options(source, output), engine)
    output.write_bytes(other(output))

    with pytest.raises(JobChanged, match="is not there any more as the job wrote it"):
        score_files(options(source, output), engine)
    with pytest.raises(OutputError, match=rf"out.{suffix} is there already"):
        score_files(options(source, output, restart=True), engine)
    output.unlink()
    with pytest.raises(JobChanged, match="restart the job"):
        score_files(options(source, output), engine)

    assert score_files(options(source, output, restart=True), engine).finished


def test_a_file_that_appears_while_parts_are_joined_is_not_written_over(
    tmp_path: Path, source: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.parquet"
    parts = joining._parts

    def appear(ledger: Ledger) -> Iterator[bytes]:
        output.write_bytes(b"precious")
        yield from parts(ledger)

    monkeypatch.setattr(joining, "_parts", appear)
    with pytest.raises(OutputError, match="somebody else made it meanwhile"):
        score_files(options(source, output), engine)
    assert output.read_bytes() == b"precious"

    output.unlink()
    monkeypatch.undo()
    assert score_files(options(source, output), engine).shards_done_before == SHARDS


def test_a_file_that_appeared_meanwhile_is_not_written_over(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    output = tmp_path / "out.parquet"

    def appear(batch: int) -> None:
        output.write_bytes(b"precious")

    with pytest.raises(OutputError, match="somebody else made it meanwhile"):
        score_files(options(source, output), Watched(engine, appear))
    assert output.read_bytes() == b"precious"
    output.unlink()
    watched = Watched(engine)
    score_files(options(source, output), watched)
    assert not watched.batches


def test_an_input_that_changes_while_it_is_read_ends_the_job(
    source: Path, output: Path, engine: Engine
) -> None:
    def grow(batch: int) -> None:
        if batch == 4:
            with source.open("ab") as file:
                file.write(b"more")

    with pytest.raises((JobChanged, DataError), match=r"a.parquet"):
        score_files(options(source, output), Watched(engine, grow))

    assert output.is_dir() or not output.exists()


def test_an_input_that_is_written_anew_at_equal_size_while_it_is_read_ends_the_job(
    tmp_path: Path, output: Path, engine: Engine
) -> None:
    source = tmp_path / "in.csv"
    rows = [f"{index},1.5,2.5,3.5\n" for index in range(10, 10 + SEQUENCES)]
    source.write_text("id,x,y,z\n" + "".join(rows))
    before = source.stat()

    def rewrite(batch: int) -> None:
        if batch == 0:
            source.write_text(source.read_text().replace("1.5", "9.5"))

    with pytest.raises(JobChanged, match="changed while it was read: other contents, of the same"):
        score_files(options(source, output), Watched(engine, rewrite))
    assert source.stat().st_size == before.st_size


def test_an_input_that_was_touched_and_has_its_content_is_the_same(
    source: Path, output: Path, engine: Engine
) -> None:
    def touch(batch: int) -> None:
        os.utime(source, ns=(0, batch))

    assert score_files(options(source, output), Watched(engine, touch)).finished


def test_a_stopped_restart_is_gone_on_with_without_restart(
    source: Path, output: Path, engine: Engine
) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(JobStopped, match="the same command without --restart goes on from there"):
        score_files(options(source, output, restart=True), engine, stop=stop)


def test_parts_that_cannot_be_joined_are_told_of(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    output = tmp_path / "out.parquet"

    def appear(batch: int) -> None:
        output.write_bytes(b"precious")

    with pytest.raises(OutputError, match="somebody else made it meanwhile"):
        score_files(options(source, output), Watched(engine, appear))
    output.unlink()
    parts = output.with_name("out.parquet.parts")
    (parts / "part-00001.arrow").write_bytes(b"junk")
    record = parts / "_seqserve" / "shard-00001.json"
    told = {**json.loads(record.read_text()), "size": 4, "sha256": sha256(b"junk").hexdigest()}
    record.write_text(json.dumps(told))
    with pytest.raises(OutputError, match=r"out\.parquet: the parts cannot be made one file: "):
        score_files(options(source, output), engine)
    assert not output.exists()


def test_a_bad_sequence_ends_a_job_that_is_to_fail_for_it_and_it_can_go_on_otherwise(
    tmp_path: Path, output: Path, engine: Engine
) -> None:
    source = write_steps(tmp_path / "in.parquet", SEQUENCES, seed=5, bad=True)
    score_files(options(source, tmp_path / "whole" / output.name), engine)

    with pytest.raises(BadSequence, match=r"sequence \d+: step 0, feature 'feature 1' is NaN"):
        score_files(options(source, output, on_error=OnError.FAIL), engine)
    summary = score_files(options(source, output), engine)

    assert content(output) == content(tmp_path / "whole" / output.name)
    assert summary.refused_in_all
    with pytest.raises(BadSequence, match="an earlier run met bad sequences"):
        score_files(options(source, output, on_error=OnError.FAIL), engine)


def test_an_engine_that_fails_ends_the_job_and_loses_nothing(
    tmp_path: Path, source: Path, output: Path, engine: Engine
) -> None:
    score_files(options(source, tmp_path / "whole" / output.name), engine)

    def fail(batch: int) -> None:
        if batch == 5:
            raise EngineError("the model is gone")

    with pytest.raises(EngineError, match="the model is gone"):
        score_files(options(source, output), Watched(engine, fail))
    score_files(options(source, output), engine)

    assert content(output) == content(tmp_path / "whole" / output.name)
