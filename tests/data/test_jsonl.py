"""One JSON object a line, one sequence an object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seqserve_data import Columns

if TYPE_CHECKING:
    from tests.data.conftest import Read, Refuse


def test_a_file_is_read_by_convention(read_text: Read) -> None:
    dataset = read_text(
        "d.jsonl",
        '{"id": "a", "label": "walk", "values": [[1, 2.5], [3, 4]], "note": null}\n'
        "\n"
        '{"sequence": [[5, 6]], "id": 7, "label": true}\n',
    )
    assert [sequence.tolist() for sequence in dataset.sequences] == [[[1, 2.5], [3, 4]], [[5, 6]]]
    assert dataset.ids == ("a", "7")
    assert dataset.labels == ("walk", "true")


def test_steps_of_one_feature_may_be_numbers(read_text: Read) -> None:
    dataset = read_text("d.jsonl", '{"values": [1, 2, 3]}')
    assert dataset.sequences[0].tolist() == [[1], [2], [3]]
    assert dataset.ids == ("0",)
    assert dataset.labels is None


def test_values_come_before_sequence_which_then_is_the_id(read_text: Read) -> None:
    assert read_text("d.jsonl", '{"sequence": "a", "values": [1]}').ids == ("a",)


def test_keys_may_be_told(read_text: Read) -> None:
    columns = Columns(id="who", label="what", features=("steps",))
    dataset = read_text(
        "d.jsonl", '{"who": 1, "what": 2.0, "steps": [3], "id": [], "y": 4}', columns
    )
    assert (dataset.ids, dataset.labels) == (("1",), ("2",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param('{"values": [[1, 2]', "line 3: is not JSON: ", id="cut off"),
        pytest.param("[" * 100_000, "line 3: is not JSON: ", id="too deep"),
        pytest.param("[1]", "line 3: is not a JSON object", id="no object"),
        pytest.param('{"label": "u"}', "line 3: has no key values or sequence", id="no steps key"),
        pytest.param('{"label": "u", "values": []}', "'values': has no steps", id="no steps"),
        pytest.param('{"label": "u", "values": 3}', "'values': has no steps", id="a number"),
        pytest.param('{"label": "u", "values": [[]]}', "step 0 has no features", id="no features"),
        pytest.param(
            '{"label": "u", "values": [[1, 2], [3]]}',
            "line 3, column 'values': step 1 has 1 features, but step 0 has 2",
            id="unequal steps",
        ),
        pytest.param(
            '{"label": "u", "values": [[1]]}',
            "line 3, column 'values': has 1 features a step, but line 1 has 2",
            id="unequal sequences",
        ),
        pytest.param(
            '{"label": "u", "values": [[1, 2], 3]}',
            "step 1 is 3, but step 0 is a list",
            id="a step that is no list",
        ),
        pytest.param(
            '{"label": "u", "values": [[1, 2], [3, "4"]]}',
            "line 3, column 'values': step 1, feature 1 is not a number: \"4\"",
            id="text",
        ),
        pytest.param(
            '{"label": "u", "values": [[true, 2]]}', "feature 0 is not a number: true", id="true"
        ),
        pytest.param('{"label": "u", "values": [[1, null]]}', "feature 1 is missing", id="null"),
        pytest.param('{"label": "u", "values": [[1, NaN]]}', "step 0, feature 1 is NaN", id="NaN"),
        pytest.param(
            '{"label": "u", "values": [[1, -Infinity]]}', "feature 1 is infinite", id="infinite"
        ),
        pytest.param('{"label": "u", "values": [[1, 1e39]]}', "feature 1 is 1e+39", id="too large"),
        pytest.param(
            '{"label": "u", "values": [[1, 1' + "0" * 400 + "]]}",
            "a whole number beyond",
            id="huge",
        ),
        pytest.param('{"values": [[1, 2]]}', "line 3, column 'label': is missing", id="label"),
        pytest.param(
            '{"label": [1], "values": [[1, 2]]}', "'label': is [1]; text", id="label list"
        ),
    ],
)
def test_a_bad_line_is_refused_with_its_place(refusal: Refuse, line: str, message: str) -> None:
    good = '{"label": "u", "values": [[1, 2]]}\n\n'
    assert message in refusal("d.jsonl", good + line + "\n")


def test_a_label_that_the_first_line_lacks_is_missing_there(refusal: Refuse) -> None:
    content = '{"values": [1]}\n{"values": [1], "label": "u"}\n'
    assert refusal("d.jsonl", content) == "d.jsonl, line 1, column 'label': is missing"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(order="x"), "one key holds whole sequences here"),
        (Columns(features=("x", "y")), "one key holds whole sequences here"),
        (Columns(features=("x",)), "line 1: has no key x; it has 'values', 'id'"),
        (Columns(label="x"), "has no column 'x'; it has 'id'"),
    ],
    ids=["order", "features", "feature", "label"],
)
def test_a_key_told_must_be_there(refusal: Refuse, columns: Columns, message: str) -> None:
    assert message in refusal("d.jsonl", '{"values": [1], "id": 1}', columns)


def test_an_empty_file_is_refused(refusal: Refuse) -> None:
    assert refusal("d.jsonl", "\n") == "d.jsonl: has no lines"
