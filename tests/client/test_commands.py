"""`seqserve classify` and `seqserve models`, as their users see them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from seqserve_client.testing import FakeServer

if TYPE_CHECKING:
    from tests.client.conftest import Run

LABELLED = """id,x,y,label
a,0.1,0.1,low
a,0.2,0.2,low
b,1.0,1.2,middle
c,2.0,2.0,middle
d,1.9,2.5,high
"""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(["low", "middle", "high"], model="heights", features=["x", "y"]) as fake:
        yield fake


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], str]:
    """Writes a file of that text and gives its path."""
    pytest.importorskip("pyarrow")  # reads it

    def write(text: str) -> str:
        path = tmp_path / "heights.csv"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def file(table: Callable[[str], str]) -> str:
    return table(LABELLED)


def test_a_table_names_id_label_and_probability_and_ends_with_accuracy(run: Run, file: str) -> None:
    done = run("classify", file, "--model", "heights")
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["id", "label", "probability"]
    assert [line[:2] for line in lines[1:5]] == [
        *(["a", "low"], ["b", "middle"], ["c", "high"], ["d", "high"])
    ]
    assert all(1 / 3 < float(line[2]) < 1 for line in lines[1:5])
    assert done.stdout.splitlines()[-1] == "accuracy: 0.750"
    assert "4 sequences in" in done.stderr
    assert "sequences/s" in done.stderr


def test_csv_is_answers_alone(run: Run, file: str) -> None:
    done = run("classify", file, "--model", "heights", "--output", "csv")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["label"] for row in rows] == ["low", "middle", "high", "high"]
    assert list(rows[0]) == ["id", "label", "probability"]
    assert done.stderr.splitlines()[-1] == "accuracy: 0.750"


def test_json_is_one_document(run: Run, file: str) -> None:
    done = run("classify", file, "--model", "heights", "--output", "json")
    document = json.loads(done.stdout)
    assert (document["model"], document["version"]) == ("heights", 1)
    assert document["accuracy"] == 0.75
    assert [answer["id"] for answer in document["answers"]] == ["a", "b", "c", "d"]
    for answer in document["answers"]:
        assert set(answer["probabilities"]) == {"low", "middle", "high"}
        assert answer["probability"] == answer["probabilities"][answer["label"]]
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert done.stderr.splitlines()[-1] == "accuracy: 0.750"


def test_top_k_names_the_next_classes_too(run: Run, file: str) -> None:
    done = run("classify", file, "--model", "heights", "--output", "csv", "--top-k", "2")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["label_2"] for row in rows] == ["middle", "high", "middle", "middle"]
    assert all(float(row["probability"]) >= float(row["probability_2"]) > 0 for row in rows)
    whole = json.loads(run("classify", file, "--model", "heights", "--output", "json").stdout)
    for row, answer in zip(rows, whole["answers"], strict=True):
        assert float(row["probability"]) == answer["probabilities"][row["label"]]
        assert float(row["probability_2"]) == answer["probabilities"][row["label_2"]]
    lines = run("classify", file, "--model", "heights", "--top-k", "3").stdout.splitlines()
    assert lines[0].split() == ["id"] + ["label", "probability"] * 3
    document = json.loads(
        run("classify", file, "--model", "heights", "--output", "json", "--top-k", "1").stdout
    )
    assert [list(answer["probabilities"]) for answer in document["answers"]] == [
        *(["low"], ["middle"], ["high"], ["high"])
    ]


def test_a_file_without_labels_has_no_accuracy(run: Run, table: Callable[[str], str]) -> None:
    path = table("id,x,y\na,0,0\n")
    for output in ("table", "csv", "json", "summary"):
        done = run("classify", path, "--model", "heights", "--output", output, "--confusion")
        assert done.exit_code == 0
        assert "accuracy" not in done.stdout + done.stderr
        assert "no confusion matrix: the file has no labels" in done.stderr


def test_the_confusion_matrix_counts_labels_down_and_answers_across(run: Run, file: str) -> None:
    done = run("classify", file, "--model", "heights", "--confusion", "--output", "summary")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["labels", "down,", "answers", "across"],
        ["high", "low", "middle"],
        ["high", "1", "0", "0"],
        ["low", "0", "1", "0"],
        ["middle", "1", "0", "1"],
        [],
        ["accuracy:", "0.750"],
    ]
    beside = run("classify", file, "--model", "heights", "--confusion", "--output", "csv")
    assert "answers across" in beside.stderr
    assert "answers across" not in beside.stdout


def test_features_are_sent_in_the_models_order(
    run: Run, server: FakeServer, table: Callable[[str], str]
) -> None:
    path = table("id,extra,y,x\na,7,2,1\n")
    done = run("classify", path, "--model", "heights")
    assert done.exit_code == 0, done.stderr
    assert server.calls[-1].request.sequences.values == b"\x00\x00\x80\x3f\x00\x00\x00\x40"
    run("classify", path, "--model", "heights", "--features", "y, x")
    assert server.calls[-1].request.sequences.values == b"\x00\x00\x00\x40\x00\x00\x80\x3f"


def test_the_columns_can_be_told(run: Run, server: FakeServer, table: Callable[[str], str]) -> None:
    path = table("who,when,x,y,truth\na,2,2,2,low\na,1,1,1,low\n")
    words = ("--id", "who", "--order", "when", "--label", "truth", "--output", "csv")
    done = run("classify", path, "--model", "heights", *words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("a,middle,")
    assert server.calls[-1].request.sequences.values[:4] == b"\x00\x00\x80\x3f"
    assert done.stderr.splitlines()[-1] == "accuracy: 0.000"


def test_a_batch_size_is_kept_to(run: Run, server: FakeServer, file: str) -> None:
    run("classify", file, "--model", "heights", "--batch-size", "3")
    sizes = [len(call.request.sequences.lengths) for call in server.calls[1:]]
    assert sorted(sizes) == [1, 3]


def test_a_bundled_set_is_classified(run: Run) -> None:
    with FakeServer([str(speaker) for speaker in range(1, 10)], features=12) as vowels:
        done = run(*("classify", "japanese-vowels/test", "--model", "model"), server=vowels.address)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("accuracy: 0.")
    assert "370 sequences in" in done.stderr


def test_a_version_can_be_asked_for(run: Run, server: FakeServer, file: str) -> None:
    server.publish(2)
    words = ("classify", file, "--model", "heights", "--output", "json")
    assert json.loads(run(*words).stdout)["version"] == 2
    assert json.loads(run(*words, "--version", "1").stdout)["version"] == 1


def test_a_refused_sequence_is_named_by_file_and_id(
    run: Run, server: FakeServer, file: str
) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="sequences.lengths[2]", description="sequence 2 has 1 steps; 2 are needed"
    )
    server.fail(
        grpc.StatusCode.INVALID_ARGUMENT,
        method="Classify",
        details=[error_details_pb2.BadRequest(field_violations=[violation])],
    )
    done = run("classify", file, "--model", "heights")
    assert done.exit_code == 1
    assert done.stderr == (
        "seqserve classify: heights.csv: sequence 'c' has 1 steps; 2 are needed\n"
    )
    assert done.stdout == ""


def test_a_bad_sequence_is_said_beside_the_answers_where_that_is_asked_for(
    run: Run, server: FakeServer, file: str
) -> None:
    server.max_steps = 1
    words = ("classify", file, "--model", "heights", "--on-invalid", "answer-rest")
    why = "sequence 'a' has 2 steps; heights accepts 1"

    done = run(*words, "--output", "csv")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [(row["id"], row["label"], row["error"]) for row in rows] == [
        ("a", "", why),
        ("b", "middle", ""),
        ("c", "high", ""),
        ("d", "high", ""),
    ]
    assert why in done.stderr
    assert done.stderr.splitlines()[-1] == "accuracy: 0.667"

    document = json.loads(run(*words, "--output", "json").stdout)
    assert document["answers"][0] == {"id": "a", "error": why}
    assert document["answers"][1]["label"] == "middle"

    assert run(*words).stdout.splitlines()[1].split() == ["a", "-", "-"]
    assert run("classify", file, "--model", "heights").exit_code == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,x,z\na,1,1\n", "heights.csv: has no feature y, which heights version 1 takes"),
        ("id,x,y\na,1,many\n", "heights.csv"),
        ("id,x,y\n", "heights.csv"),
    ],
    ids=["a feature missing", "text", "no rows"],
)
def test_what_is_wrong_with_a_file_is_told_in_a_line(
    run: Run, table: Callable[[str], str], text: str, message: str
) -> None:
    done = run("classify", table(text), "--model", "heights")
    assert done.exit_code == 1
    assert done.stderr.startswith("seqserve classify: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_another_count_of_features_is_told_with_the_models(run: Run) -> None:
    done = run("classify", "random", "--model", "heights")
    assert done.exit_code == 1
    assert done.stderr == (
        "seqserve classify: random: sequence '0' has 5 features a step, as all have; "
        "heights version 1 takes 2\n"
    )


def test_an_unknown_model_is_told_with_those_served(run: Run, file: str) -> None:
    done = run("classify", file, "--model", "widths")
    assert done.exit_code == 1
    assert done.stderr == ("seqserve classify: widths is not served; heights is, in versions [1]\n")


def test_a_server_that_is_not_there_is_told_in_a_line(
    run: Run, server: FakeServer, file: str
) -> None:
    address = server.address
    server.stop()
    for words in (("classify", file, "--model", "heights"), ("models",)):
        done = run(*words)
        assert done.exit_code == 1
        assert len(done.stderr.splitlines()) == 1
        assert f"{address} is unavailable" in done.stderr


def test_an_address_that_cannot_be_is_a_wrong_usage(run: Run) -> None:
    done = run("models", server="no such thing")
    assert done.exit_code == 2
    assert done.stderr == (
        "seqserve models: 'no such thing' is no server address: host:port is needed, or several "
        "with commas\n"
    )


def test_models_are_listed_with_their_labels(run: Run, server: FakeServer) -> None:
    server.publish(12)
    lines = run("models").stdout.splitlines()
    assert lines[0].split() == ["model", "version", "state", "execution", "provider", "labels"]
    assert [line.split() for line in lines[1:]] == [
        ["heights", version, "ready", "FakeExecutionProvider", "low,", "middle,", "high"]
        for version in ("1", "12")
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), "bulk"), (("--service-class", "interactive"), "interactive")],
    ids=["by default", "as asked for"],
)
def test_a_file_takes_what_others_leave_unless_told_otherwise(
    run: Run, server: FakeServer, file: str, words: tuple[str, ...], expected: str
) -> None:
    assert run("classify", file, "--model", "heights", *words).exit_code == 0
    assert [call.service_class for call in server.calls if call.method == "Classify"] == [expected]
