"""`seqserve train`: data in, a published version out, and one clear line where that cannot be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from seqserve import artifact
from seqserve.artifact import read_manifest
from seqserve.v1.manifest_pb2 import HEAD_LAST, HEAD_MAX
from seqserve_data import Dataset
from seqserve_export import training
from seqserve_export.checkpoint import load_trained
from seqserve_export.commands import train

MakeRamps = Callable[..., Dataset]
Run = Callable[..., Result]

QUICK = ("--hidden-size", "8", "--updates", "20", "--model", "m")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(train)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path: Path, ramps: MakeRamps) -> Path:
    """A file of 40 labelled sequences."""
    return _write(ramps(40), tmp_path / "train.jsonl")


def _write(dataset: Dataset, path: Path) -> Path:
    labels = dataset.labels or (None,) * len(dataset)
    with path.open("w") as file:
        for sequence, label in zip(dataset.sequences, labels, strict=True):
            row = {"values": sequence.tolist()} | ({"label": label} if label else {})
            file.write(json.dumps(row) + "\n")
    return path


def test_a_model_is_trained_proven_and_published(
    run: Run, data: Path, ramps: MakeRamps, tmp_path: Path
) -> None:
    test = _write(ramps(30, seed=1), tmp_path / "test.jsonl")

    result = run(data, *QUICK, "--test", test, "--max-steps", 99, "--admit-non-finite")

    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "models" / "m" / "1")
    assert manifest.training.data == "train.jsonl"
    assert manifest.training.test.sequences == 30
    assert manifest.limits.max_steps == 99
    assert manifest.input.features.admit_non_finite
    assert list(manifest.labels) == ["falling", "rising"]
    assert result.output.count("tried head") == 5
    assert re.search(
        r"accuracy: train [01]\.\d{4} \(40 sequences\), held out [01]\.\d{4} "
        r"\(24 sequences\), test [01]\.\d{4} \(30 sequences\)",
        result.output,
    )
    assert "published models/m/1" in result.output
    saved = load_trained(tmp_path / "checkpoints" / "m" / "final.pt")
    assert saved.training == manifest.training


def test_the_next_run_publishes_the_next_version(run: Run, data: Path, tmp_path: Path) -> None:
    for version in (1, 2):
        result = run(data, *QUICK, "--head", "last", "--repository", "elsewhere/models")
        assert f"published elsewhere/models/m/{version}" in result.output

    assert read_manifest(tmp_path / "elsewhere/models/m/2").network.head == HEAD_LAST


def test_what_is_published_is_not_trained_again_where_that_is_asked_for(
    run: Run, data: Path, tmp_path: Path
) -> None:
    once = (data, *QUICK, "--head", "last", "--unless-published")
    assert "published models/m/1" in run(*once).output
    digest = artifact.digest(tmp_path / "models/m/1")

    again = run(*once)

    assert (again.exit_code, again.output) == (0, "models/m/1 is published: nothing to train\n")
    assert artifact.versions(tmp_path / "models", "m") == [1]
    assert artifact.digest(tmp_path / "models/m/1") == digest


def test_an_empty_folder_of_a_version_is_not_taken_for_a_published_one(
    run: Run, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "models/m/1").mkdir(parents=True)

    result = run(data, *QUICK, "--head", "last", "--unless-published")

    assert "published models/m/2" in result.output


def test_of_two_runs_at_once_one_publishes_where_that_is_asked_for(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = (data, *QUICK, "--head", "last")

    def train_beside_another(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        monkeypatch.setattr(training, "train", trained)
        assert run(*once, "--checkpoints", "other").exit_code == 0
        return trained(*arguments, **options)

    trained = training.train
    monkeypatch.setattr(training, "train", train_beside_another)
    result = run(*once, "--unless-published")

    assert result.exit_code == 0, result.output
    assert result.output.endswith("models/m/1 has been published meanwhile: nothing to publish\n")
    assert artifact.versions(tmp_path / "models", "m") == [1]


@pytest.mark.parametrize("repository", ["/proc/models", "train.jsonl/models"])
def test_a_repository_that_cannot_be_written_is_told_before_training(
    repository: str, run: Run, data: Path, tmp_path: Path
) -> None:
    result = run(data, *QUICK, "--repository", repository)

    assert result.exit_code == 1
    assert result.output.startswith(f"seqserve train: cannot write to {repository}: ")
    assert result.output.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == [data.name]


def test_a_bundled_set_is_tested_by_its_own_test_part(run: Run, tmp_path: Path) -> None:
    result = run("japanese-vowels", *QUICK, "--no-auto", "--head", "max")

    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "models" / "m" / "1")
    assert manifest.training.test.sequences == 370
    assert not manifest.training.HasField("validation")
    assert manifest.network.head == HEAD_MAX


def test_epochs_are_told_one_by_one_without_a_terminal(run: Run, data: Path) -> None:
    result = run(data, "--model", "m", "--epochs", 3, "--validation", 0.2)

    lines = [line for line in result.output.splitlines() if line.startswith("epoch")]
    assert len(lines) == 3
    assert re.fullmatch(
        r"epoch 3/3  last batch's loss \d\.\d{4}  mean loss \d\.\d{4}  "
        r"validation loss \d\.\d{4}  accuracy [01]\.\d{4}",
        lines[2],
    )
    assert "\x1b" not in result.output


def test_columns_are_named_by_the_user(run: Run, ramps: MakeRamps, tmp_path: Path) -> None:
    rows = ["patient,hour,pulse,noise,outcome"]
    dataset = ramps(20)
    for index, (sequence, label) in enumerate(
        zip(dataset.sequences, dataset.labels or (), strict=True)
    ):
        rows += [f"{index},{hour},{value[0]},x,{label}" for hour, value in enumerate(sequence)]
    (tmp_path / "long.csv").write_text("\n".join(rows) + "\n")

    result = run(
        *("long.csv", *QUICK, "--head", "max", "--id", "patient", "--order", "hour"),
        *("--label", "outcome", "--features", "pulse"),
    )

    assert result.exit_code == 0, result.output
    features = read_manifest(tmp_path / "models" / "m" / "1").input.features
    assert list(features.names) == ["pulse"]


def test_rnn_is_rnn_tanh(run: Run, data: Path, tmp_path: Path) -> None:
    result = run(data, *QUICK, "--head", "max", "--cell", "rnn")

    assert result.exit_code == 0, result.output
    assert read_manifest(tmp_path / "models" / "m" / "1").training.settings["cell"] == "rnn-tanh"


def test_resume_without_a_run_starts_one(run: Run, data: Path) -> None:
    result = run(data, *QUICK, "--head", "max", "--resume")

    assert "nothing to resume in checkpoints/m; starting anew" in result.output
    assert "published models/m/1" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--epochs", "3", "--updates", "3"], 2, "give one"),
        (["--cell", "gru", "--proj-size", "4"], 2, "a gru has none"),
        (["--proj-size", "64"], 2, "not below --hidden-size 64"),
        (["--dropout", "1"], 2, "--dropout is at least 0 and below 1"),
        (["--validation", "1.5"], 2, "a file, or a share above 0 and below 1, not 1.5"),
        (["--validation", "0"], 2, "a file, or a share above 0 and below 1, not 0.0"),
        (["--validation", "missing.csv"], 1, "missing.csv"),
        (["--test", "missing.csv"], 1, "missing.csv"),
        (["--label", "outcome"], 1, "outcome"),
        (["--model", "../up"], 1, "../up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_ends_in_one_clear_line(
    arguments: list[str], code: int, message: str, run: Run, data: Path, tmp_path: Path
) -> None:
    result = run(data, *(() if "--model" in arguments else ("--model", "m")), *arguments)

    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("seqserve train: ")
    assert message in line
    assert not (tmp_path / "models").exists()


def test_data_that_cannot_be_used_is_named(run: Run, ramps: MakeRamps, tmp_path: Path) -> None:
    from dataclasses import replace

    unlabelled = _write(replace(ramps(4), labels=None), tmp_path / "unlabelled.jsonl")

    result = run(unlabelled, *QUICK)

    assert result.exit_code == 1
    assert result.stderr.startswith("seqserve train: unlabelled.jsonl")
    assert "has no labels" in result.stderr


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    import signal

    command = [
        *(sys.executable, "-c", "from seqserve_client.cli import main; main()"),
        *("train", "random", "--model", "m", "--optimizer", "adam", "--epochs", "100000"),
    ]
    training = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert training.stdout
    while "epoch      2/" not in training.stdout.readline():  # the first is saved by then
        pass
    training.send_signal(signal.SIGINT)
    _, errors = training.communicate()

    assert training.returncode == 130
    assert errors == "seqserve train: stopped; the same command with --resume goes on\n"


def test_the_textbook_run_repeats_on_the_command_line(tmp_path: Path) -> None:
    command = "train random --cell lstm --hidden-size 50 --num-layers 2 --batch-size 64 "
    command += "--optimizer adam --learning-rate 0.01 --epochs 20 --model textbook"

    result = subprocess.run(
        [sys.executable, "-c", "from seqserve_client.cli import main; main()", *command.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "40"},
        check=True,
    )

    losses = re.findall(r"last batch's loss (\d\.\d+)  mean loss (\d\.\d+)\n", result.stdout)
    assert len(losses) == 20
    assert float(losses[0][1]) == pytest.approx(0.693, abs=0.02)
    assert max(map(float, losses[19])) < 0.2
    assert "published models/textbook/1" in result.stdout
    settings = read_manifest(tmp_path / "models" / "textbook" / "1").training.settings
    assert [settings[name] for name in ("dropout", "input-noise", "input-dropout")] == ["0.0"] * 3
