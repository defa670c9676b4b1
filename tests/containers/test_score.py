"""The scoring job of the `jobs` profile: its files, and how it ends."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seqserve_data import Dataset
from tests.containers.compose import ROOT, Project

if TYPE_CHECKING:
    from tests.containers.conftest import Model


@pytest.fixture
def on_the_host(project: Project, tmp_path: Path) -> Project:
    """The same project with a folder of the host in place of the volume `data`."""
    user = f"{os.getuid()}:{os.getgid()}"
    return project.told(SEQSERVE_DATA=str(tmp_path), SEQSERVE_SCORE_USER=user)


def test_a_job_by_the_service_writes_the_bytes_of_one_on_the_host(
    on_the_host: Project, model: Model, sequences: Dataset, tmp_path: Path
) -> None:
    _write(sequences, tmp_path / "input" / "test.jsonl")

    done = on_the_host.run("run", "--rm", "-T", "score")

    assert done.returncode == 0, done.stderr
    assert "370 sequences = 370 scored + 0 refused" in done.stdout + done.stderr
    here = _scored_here(model, tmp_path / "input", tmp_path / "here.parquet")
    assert (tmp_path / "scores.parquet").read_bytes() == here


def test_a_refused_sequence_is_told_by_the_exit_code(
    on_the_host: Project, sequences: Dataset, tmp_path: Path
) -> None:
    _write(sequences, tmp_path / "input" / "test.jsonl", missing=17)

    done = on_the_host.run("run", "--rm", "--no-deps", "-T", "score")

    assert done.returncode == 3, done.stderr
    assert "370 sequences = 369 scored + 1 refused" in done.stdout + done.stderr


def test_files_go_into_the_volume_and_out_of_it_as_the_docs_say(
    project: Project, model: Model, sequences: Dataset, tmp_path: Path
) -> None:
    _write(sequences, tmp_path / "speakers" / "input" / "test.jsonl")
    docs = (ROOT / "docs/containers.md").read_text()
    [lines] = [block for block in docs.split("```") if block.startswith("sh\ntar -C speakers")]
    fill, empty = lines.removeprefix("sh\n").strip().splitlines()

    def run(line: str) -> None:
        command = line.replace("docker compose", shlex.join(["docker", *map(str, project.words)]))
        command = command.replace("-C speakers", f"-C {tmp_path / 'speakers'}")
        command = command.replace(">scores.parquet", f">{tmp_path / 'scores.parquet'}")
        told = {**os.environ, **project.docker.environment}
        subprocess.run(["bash", "-euc", command], cwd=ROOT, env=told, check=True)

    run(fill)
    project("run", "--rm", "--no-deps", "-T", "score")
    run(empty)
    here = _scored_here(model, tmp_path / "speakers" / "input", tmp_path / "here.parquet")
    assert (tmp_path / "scores.parquet").read_bytes() == here
    project("run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "score", "-c", "rm -r /data/*")


def test_an_input_that_is_not_there_ends_the_job_with_a_line(project: Project) -> None:
    done = project.run("run", "--rm", "--no-deps", "-T", "score")

    assert done.returncode == 1
    [told] = [line for line in done.stderr.splitlines() if line.startswith("seqserve")]
    assert told.startswith("seqserve score: /data/input: ")


def _write(sequences: Dataset, path: Path, missing: int | None = None) -> None:
    """A sequence a line; of one of them the first number is missing."""
    path.parent.mkdir(parents=True)
    batch = sequences.sequences
    with path.open("w") as file:
        for index, steps in enumerate(np.split(batch.values, np.cumsum(batch.lengths)[:-1])):
            values = steps.tolist()
            if index == missing:
                values[0][0] = None
            file.write(json.dumps({"id": index, "values": values}) + "\n")


def _scored_here(model: Model, source: Path, output: Path) -> bytes:
    seqserve = Path(sys.executable).parent / "seqserve"
    words = ("--model", model.name, "--repository", model.repository)
    subprocess.run((seqserve, "score", source, output, *words), check=True, capture_output=True)
    return output.read_bytes()
