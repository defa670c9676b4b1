"""The .ts files of the UCR and UEA archives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.data.conftest import Read, Refuse

HEADER = """# A comment,
% and another.

@problemName Walks
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
@classLabel true Walk run
@data
"""


def test_a_file_of_unequal_lengths_is_read_with_the_case_of_its_labels(read_text: Read) -> None:
    dataset = read_text("w.ts", HEADER + "1,2, 3:4,5,6:Walk\n\n-7e-1:.5:run\n")
    expected = [[[1, 4], [2, 5], [3, 6]], [[-0.7, 0.5]]]
    for sequence, steps in zip(dataset.sequences, expected, strict=True):
        np.testing.assert_array_equal(sequence, np.array(steps, np.float32), strict=True)
    assert dataset.labels == ("Walk", "run")
    assert dataset.ids == ("0", "1")


def test_a_univariate_file_is_read(read_text: Read) -> None:
    content = "@UNIVARIATE TRUE\n@equalLength true\n@classlabel TRUE 0 1\n@DATA\n1,2:0\n3,4:1\n"
    dataset = read_text("u.ts", content)
    assert [sequence.tolist() for sequence in dataset.sequences] == [[[1], [2]], [[3], [4]]]
    assert dataset.labels == ("0", "1")


def test_a_file_without_labels_is_read(read_text: Read) -> None:
    dataset = read_text("u.ts", "@classLabel false\n@data\n1,2:3,4\n")
    assert dataset.labels is None
    assert dataset.sequences[0].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,?,3:1,2,3:run", "line 13: dimension 1, step 2 is missing: '?'"),
        ("1,2,3:1,,3:run", "line 13: dimension 2, step 2 is missing: ''"),
        ("1,2,3:1,2,NaN:run", "line 13: dimension 2, step 3 is NaN"),
        ("1,inf:1,2:run", "line 13: dimension 1, step 2 is infinite"),
        ("1,1e39:1,2:run", "line 13: dimension 1, step 2 is 1e+39, beyond the range of float32"),
        ("1,x:1,2:run", "line 13: dimension 1, step 2 is not a number: 'x'"),
        ("1,1_0:1,2:run", "line 13: dimension 1, step 2 is not a number: '1_0'"),
        ("(0,1),(1,2):1,2:run", "line 13: dimension 1, step 1 is not a number: '(0'"),
        ("1,2:1:run", "line 13: dimension 2 has 1 steps, but dimension 1 has 2"),
        ("1,2::run", "line 13: dimension 2 has no steps; at least 1 is needed"),
        ("1,2:run", "line 13: has 1 dimensions, but line 12 has 2"),
        ("run", "line 13: has no dimensions"),
        ("1,2:3,4", "line 13: ends with '3,4', which is none of the classes that the header lists"),
        ("1,2:3,4:walk", "line 13: ends with 'walk', which is none"),
        ("1,2:3,4:", "line 13: ends with ''"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(refusal: Refuse, line: str, message: str) -> None:
    assert f"w.ts, {message}" in refusal("w.ts", f"{HEADER}1:2:Walk\n{line}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("@timestamps true\n@data\n(0,1):1", "line 1: steps with time stamps are not read"),
        ("@targetlabel true\n@data\n1,2:0.5", "line 1: the targets are numbers to predict"),
        ("@univariate true\n1,2:0\n", "line 2: a header line begins with @"),
        ("@univariate true\n", "has no line @data"),
        ("", "has no line @data"),
        ("@data\n", "there are no sequences after @data"),
        (b"@data\n1,2\n1,\xff\n", "line 3: is not UTF-8"),
    ],
    ids=["time stamps", "regression", "no tag", "no @data", "empty", "no lines", "not UTF-8"],
)
def test_a_bad_header_is_refused(refusal: Refuse, content: str | bytes, message: str) -> None:
    assert message in refusal("w.ts", content)
