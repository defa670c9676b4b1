"""What a job shows on its way, with a clock moved by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from seqserve_jobs.engines.engine import Model
from seqserve_jobs.progress import Bar, Display, Lines, Tally

MODEL = Model(
    name="speakers",
    version=3,
    digest="0" * 64,
    labels=("a", "b"),
    features=2,
    feature_names=(),
    max_steps=100,
    admits_non_finite=False,
)


class Clock:
    """Stands still until it is set."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shard(
    tally: Tally,
    rows_done: int | None,
    *,
    sequences: int = 100,
    refused: int = 0,
    steps: int = 900,
    computed_steps: int | None = 1000,
    skipped: bool = False,
) -> None:
    tally.on_shard(
        sequences=sequences,
        refused=refused,
        rows_done=rows_done,
        steps=steps,
        computed_steps=computed_steps,
        skipped=skipped,
    )


def begun(clock: Clock, display: Display | None = None, rows: int | None = 1000) -> Tally:
    tally = Tally(display, clock)
    tally.on_start(MODEL, "in.parquet", rows)
    return tally


def test_speed_and_time_left_are_those_of_the_rows_done(clock: Clock) -> None:
    tally = begun(clock)
    clock.now += 2
    shard(tally, 250)
    assert tally.sequences_per_s == 50
    assert tally.seconds_left == 6
    clock.now += 6
    shard(tally, 1000, sequences=300)
    assert tally.sequences_per_s == 50
    assert tally.seconds_left == 0


def test_what_an_earlier_run_did_counts_as_done_but_not_as_speed(clock: Clock) -> None:
    tally = begun(clock)
    shard(tally, 500, sequences=400, skipped=True)
    assert (tally.sequences, tally.sequences_per_s, tally.seconds_left) == (400, None, None)
    clock.now += 5
    shard(tally, 600)
    assert tally.sequences_per_s == 20
    assert tally.seconds_left == 20


def test_time_left_is_not_guessed_where_the_input_does_not_say_how_long_it_is(clock: Clock) -> None:
    tally = begun(clock, rows=None)
    clock.now += 1
    shard(tally, 100)
    shard(tally, None)
    assert tally.seconds_left is None
    assert tally.figures() == "200 sequences, 200/s, 0 refused, 90% useful steps"


def test_the_useful_step_fraction_is_of_what_was_computed_now(clock: Clock) -> None:
    tally = begun(clock)
    shard(tally, 100, steps=1, computed_steps=1000, skipped=True)
    assert tally.useful_step_fraction is None
    shard(tally, 200, steps=750, computed_steps=1000)
    shard(tally, 300, steps=250, computed_steps=250)
    assert tally.useful_step_fraction == 0.8
    shard(tally, 400, steps=900, computed_steps=None)
    assert tally.useful_step_fraction == 0.8


def test_that_a_large_input_is_read_first_is_said(clock: Clock) -> None:
    lines: list[str] = []
    tally = Tally(Lines(lines.append, interval_s=10), clock)
    tally.on_reading(1 << 20)
    assert not lines
    tally.on_reading(500 << 30)
    assert lines == ["reading all 500.0 GiB of the input once, to know it again"]


def test_lines_come_no_oftener_than_asked_for_and_say_all_figures(clock: Clock) -> None:
    lines: list[str] = []
    tally = begun(clock, Lines(lines.append, interval_s=10))
    assert lines == ["speakers version 3 scores in.parquet"]
    for rows in (100, 200, 300, 400):
        clock.now += 4
        shard(tally, rows, refused=1)
    assert lines[1:] == [
        "300 of 1,000 rows, 300 sequences, 25/s, 0:00:28 left, 3 refused, 90% useful steps"
    ]
    clock.now += 10
    shard(tally, 500)
    assert len(lines) == 3


def test_a_line_is_written_of_a_shard_that_took_longer_than_the_interval(clock: Clock) -> None:
    lines: list[str] = []
    tally = begun(clock, Lines(lines.append, interval_s=10))
    for rows in (100, 200):
        clock.now += 60
        shard(tally, rows)
    assert len(lines) == 3


def test_the_bar_shows_how_much_is_done_and_the_figures(clock: Clock) -> None:
    terminal = io.StringIO()
    bar = Bar(Console(file=terminal, force_terminal=True, width=120, color_system=None))
    tally = begun(clock, bar)
    with bar.drawn:
        clock.now += 4
        shard(tally, 250, sequences=1000, refused=7)
    shown = terminal.getvalue()
    assert "speakers version 3 scores in.parquet" in shown
    last = next(line for line in reversed(shown.splitlines()) if "%" in line)
    assert " 25%" in last
    assert "1,000 sequences, 250/s, 0:00:12 left, 7 refused, 90% useful steps" in last
