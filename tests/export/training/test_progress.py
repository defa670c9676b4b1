"""A live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from seqserve_export.fit import Epoch, Score
from seqserve_export.progress import Display


def _show(epochs: int, *, every: int, terminal: bool) -> str:
    output = StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, color_system=None)
    with Display(console) as display:
        display.begin("training", epochs, every=every)
        for number in range(1, epochs + 1):
            display.epoch(Epoch(number, epochs, 0.5, 0.25, Score(0.75, 0.875)))
        display.note("done [really]")
    return output.getvalue()


def test_a_terminal_shows_loss_accuracy_and_time_left_under_the_lines() -> None:
    output = _show(3, every=1, terminal=True)

    assert "3/3" in output
    assert "loss 0.2500  accuracy 0.8750" in output
    assert "0:00:00" in output
    assert "done [really]" in output


def test_elsewhere_there_are_plain_lines_alone() -> None:
    assert _show(2, every=1, terminal=False).splitlines() == [
        "epoch 1/2  last batch's loss 0.5000  mean loss 0.2500  validation loss 0.7500  "
        "accuracy 0.8750",
        "epoch 2/2  last batch's loss 0.5000  mean loss 0.2500  validation loss 0.7500  "
        "accuracy 0.8750",
        "done [really]",
    ]


@pytest.mark.parametrize(
    ("every", "told"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (0, [])], ids=str
)
def test_as_many_epochs_get_a_line_as_asked_for(every: int, told: list[int]) -> None:
    lines = _show(7, every=every, terminal=False).splitlines()[:-1]

    assert [int(line.split()[1].split("/")[0]) for line in lines] == told
