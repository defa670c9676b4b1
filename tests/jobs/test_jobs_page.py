"""What docs/jobs.md, the README and the demo tell people to call."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from pyarrow import parquet

from seqserve_client.cli import COMMANDS, command_line
from seqserve_jobs.choices import SHARD_SEQUENCES, SHARD_STEPS
from seqserve_jobs.commands import score
from seqserve_jobs.engines import embedded, service
from seqserve_jobs.pipeline import SPARE_BLOCKS
from seqserve_jobs.summary import Summary
from tests.integration.conftest import ROOT

if TYPE_CHECKING:
    from tests.conftest import ModelRepository

PAGE = ROOT / "docs" / "jobs.md"


def command() -> Any:  # noqa: ANN401 (of the library that typer has within it)
    """`seqserve score`."""
    [entry] = [one for one in entry_points(group=COMMANDS) if one.name == "score"]
    group: Any = typer.main.get_command(command_line([entry]))
    return group.commands["score"]


def parsed(words: list[str]) -> dict[str, Any]:
    """What `seqserve score` would be told; it is not run."""
    params: dict[str, Any] = command().make_context("score", words).params
    return params


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code in a page."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands_in(text: str) -> list[list[str]]:
    """The words after each `seqserve score` in blocks of code, if it is told what to score."""
    calls = re.findall(r"seqserve score (.*)", "\n".join(blocks(text, "(?:sh|console|cron)")))
    return [shlex.split(call, comments=True) for call in calls if "..." not in call]


@pytest.mark.parametrize("page", [PAGE, ROOT / "README.md"], ids=lambda page: page.name)
def test_the_pages_call_the_command_as_it_is(page: Path) -> None:
    calls = commands_in(page.read_text())
    assert calls
    for words in calls:
        assert parsed(words)["model"] == "speakers"


def test_the_demo_calls_the_command_as_it_is() -> None:
    script = (ROOT / "examples" / "demo-batch.sh").read_text().replace("\\\n", " ")
    [call] = re.findall(r"^seqserve score (.*)", script, re.MULTILINE)
    told = parsed(shlex.split(call))
    assert told["restart"]


def test_the_page_names_every_exit_code_and_every_option_it_names_is_one() -> None:
    text = re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL)
    options = set(re.findall(r"--[a-z][a-z-]*", text))
    known = {name for each in command().params for name in each.opts} | {"--help"}
    assert options <= known, options - known
    assert score.__doc__
    for code in ("0", "1", "2", "3", "130", "143"):
        assert re.search(rf"\b{code}\b", score.__doc__), code
        assert re.search(rf"^\|.*\b{code}\b.*\|", text, re.MULTILINE), code


def test_the_page_states_the_limits_that_hold() -> None:
    text = PAGE.read_text()
    assert f"at most {SHARD_SEQUENCES:,} sequences and {SHARD_STEPS:,} steps" in text
    assert "At most four shards are in memory at a time" in text
    assert embedded._AHEAD + SPARE_BLOCKS == service._AHEAD + SPARE_BLOCKS == 4


def test_the_summary_has_the_fields_that_the_page_shows() -> None:
    [shown] = [json.loads(block) for block in blocks(PAGE.read_text(), "json")]
    assert list(shown) == [each.name for each in fields(Summary)]
    assert shown["sequences"] == shown["scored"] + sum(shown["refused"].values())


@pytest.fixture
def folder(repository: ModelRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a model and files as the page has them; the working directory."""
    (tmp_path / "models").symlink_to(repository(speakers={"features": 2}))
    (tmp_path / "scores").mkdir()
    (tmp_path / "incoming").mkdir()
    for name in ("new.csv", "labelled.csv", "incoming/a.csv"):
        extra = "label" if name == "labelled.csv" else "recorded_at"
        (tmp_path / name).write_text(f"id,{extra},x,y\na,then,1,2\na,then,3,4\nb,then,5,6\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_page_does_what_it_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, Any] = {}
    # recorded_at and label are text, so what is left of columns are the two features.
    exec("\n".join(blocks(PAGE.read_text(), "python")), told)
    assert list(told["frame"]["recorded_at"]) == ["then", "then"]
    assert told["scores"].column("input_label").to_pylist() == ["then", "then"]
    assert capsys.readouterr().out == "2 {}\n"
    assert (folder / "scores.parquet").exists()


def test_the_cron_line_scores_into_the_file_of_its_day_and_says_nothing(folder: Path) -> None:
    [table] = blocks(PAGE.read_text(), "cron")
    line = table.splitlines()[-1].split(maxsplit=5)[5]
    assert "/srv/scoring" in line
    assert not line.replace(r"\%", "").count("%"), "cron makes a line break of a %"
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    done = subprocess.run(
        ["/bin/sh", "-c", line.replace(r"\%", "%").replace("/srv/scoring", str(folder))],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [scores] = (folder / "scores").glob("*.parquet")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", scores.stem)
    assert parquet.read_table(scores).column("id").to_pylist() == ["a", "b"]
