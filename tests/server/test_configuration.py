"""Flag > environment > file > default, as `seqserve serve` and `seqserve doctor` have it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from seqserve_server import commands, configuration
from seqserve_server.errors import InvalidSetting

TIMEOUT_S = 60.0
SEQSERVE = [sys.executable, "-m", "seqserve_client"]
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
SECRET = "do-not-show-this-to-anybody-at-all"

WriteFile = Callable[[str], Path]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    def sources(self) -> dict[str, tuple[object, str]]:
        """The value of each setting that --print-config shows, and where it came from."""
        values = tomllib.loads(self.out)
        places = re.findall(r"^([a-z-]+) = .* # (.*)$", self.out, re.MULTILINE)
        assert values.keys() == {key for key, _ in places}
        return {key: (values[key], place) for key, place in places}


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "seqserve.toml"
        path.write_text(text)
        return path

    return write


def _run(*words: str | Path, **environment: str) -> Done:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SEQSERVE_")}
    done = subprocess.run(
        [*SEQSERVE, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=inherited | environment,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(
    write_file: WriteFile,
) -> None:
    path = write_file("lanes = 2\nmax-request-steps = 1002\nmax-queue-steps = 5002\nkeepalive = 9")

    done = _run(
        *("serve", "models", "--print-config", "--config", path, "--lanes", "4"),
        SEQSERVE_LANES="3",
        SEQSERVE_MAX_REQUEST_STEPS="1003",
    )

    assert (done.code, done.err) == (0, "")
    sources = done.sources()
    assert sources["lanes"] == (4, "command line")
    assert sources["max-request-steps"] == (1003, "SEQSERVE_MAX_REQUEST_STEPS")
    assert sources["max-queue-steps"] == (5002, str(path))
    assert sources["keepalive"] == (9.0, str(path))
    assert sources["processes"] == (1, "default")
    assert sources["repository"] == ("models", "command line")


def test_every_setting_is_shown() -> None:
    done = _run("serve", "--print-config")

    assert done.code == 0
    hints = get_type_hints(commands.serve)
    flags = {name.replace("_", "-") for name in hints} - {"ctx", "config", "print-config", "return"}
    unset = set(re.findall(r"^# ([a-z-]+) is not set$", done.out, re.MULTILINE))
    assert done.sources().keys() | unset == flags
    assert "tls-key" in unset


def test_what_is_shown_can_be_read_again(write_file: WriteFile) -> None:
    first = _run(
        *("serve", "models", "--print-config", "--version-policy", "all"),
        *("--version-policy", "speakers=3,5", "--drain-grace", "1.5", "--log-format", "json"),
    )

    again = _run("serve", "--print-config", "--config", write_file(first.out))

    assert again.code == 0, again.err
    assert tomllib.loads(again.out) == tomllib.loads(first.out)
    assert tomllib.loads(again.out)["version-policy"] == ["all", "speakers=3,5"]


def test_the_environment_may_name_the_file(write_file: WriteFile) -> None:
    path = write_file('version-policy = "all"')

    done = _run("serve", "--print-config", SEQSERVE_CONFIG=str(path))

    assert done.sources()["version-policy"] == (["all"], str(path))


def test_a_secret_is_not_shown_but_its_file_is(tmp_path: Path, write_file: WriteFile) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    path = write_file(f'token-key-file = "{key}"\notlp-endpoint = "http://me:{SECRET}@host:4317"')

    done = _run("serve", "--print-config", "--config", path)

    assert done.code == 0, done.err
    assert done.sources()["token-key-file"] == (str(key), str(path))
    assert SECRET not in done.out + done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_queue_step = 1", "no setting 'max_queue_step'; did you mean max-queue-steps?"),
        ("max_queue_steps = 1", "no setting 'max_queue_steps'; did you mean max-queue-steps?"),
        ("[server]\nlanes = 1", "no setting 'server'"),
        ("config = 'other.toml'", "no setting 'config'"),
        ("zzz = 1", "no setting 'zzz'; see seqserve serve --help"),
        ("lanes = '2'", "lanes is of the wrong type; a whole number is needed"),
        ("lanes = true", "lanes is of the wrong type; a whole number is needed"),
        ("lanes = 2.0", "lanes is of the wrong type; a whole number is needed"),
        ("keepalive = '1'", "keepalive is of the wrong type; a number is needed"),
        ("insecure = 1", "insecure is of the wrong type; true or false is needed"),
        ("address = 8001", "address is of the wrong type; a string is needed"),
        ("version-policy = [1]", "version-policy is of the wrong type; a string, or a list"),
        ("lanes = 0", "lanes: "),
        ("transport = 'pigeon'", "transport: "),
        ("lanes = 1\nlanes = 2\n", "(at line 2, "),
        ("lanes\n", "(at line 1, "),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_a_line_that_names_it(
    write_file: WriteFile, text: str, words: str
) -> None:
    path = write_file(text)

    done = _run("serve", "models", "--config", path)

    assert done.code == 2
    assert done.err.startswith(f"seqserve serve: {path}: ")
    assert words in done.err
    assert done.err.count("\n") == 1


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = _run("serve", "models", "--config", tmp_path / "none")

    assert done.code == 2
    assert done.err == f"seqserve serve: --config {tmp_path}/none: No such file or directory\n"


def test_a_value_of_the_wrong_type_is_not_repeated(write_file: WriteFile) -> None:
    done = _run("serve", "models", "--config", write_file(f"lanes = '{SECRET}'"))

    assert done.code == 2
    assert SECRET not in done.err


def test_settings_that_cannot_be_together_are_told_with_the_places_they_come_from(
    write_file: WriteFile,
) -> None:
    path = write_file("max-queue-steps = 7")

    done = _run("serve", "models", "--config", path, SEQSERVE_MAX_REQUEST_STEPS="8")

    assert done.code == 2
    assert "--max-queue-steps is 7: the largest request allowed, of 8 steps" in done.err
    assert f"max-queue-steps is set by {path}" in done.err
    assert "max-request-steps is set by SEQSERVE_MAX_REQUEST_STEPS" in done.err


def test_an_unknown_version_policy_is_told_with_its_file(write_file: WriteFile) -> None:
    path = write_file('version-policy = "newest"')

    done = _run("serve", "models", "--config", path)

    assert done.code == 2
    assert "--version-policy newest is none of: latest, all, 3" in done.err
    assert f"version-policy is set by {path}" in done.err


def test_a_variable_that_is_nearly_a_setting_is_told_and_another_is_not() -> None:
    done = _run("serve", "--print-config", SEQSERVE_POL="3", SEQSERVE_PORT="tcp://10.0.0.1:8001")

    assert done.code == 0
    assert done.err == "seqserve serve: SEQSERVE_POL is no setting; did you mean SEQSERVE_POLL?\n"


def test_a_server_without_a_repository_says_where_one_may_be_named() -> None:
    done = _run("serve")

    assert done.code == 2
    assert done.err.startswith("seqserve serve: REPOSITORY is missing: give it as the argument")


def test_the_doctor_takes_the_servers_file(write_file: WriteFile, tmp_path: Path) -> None:
    path = write_file(
        f'repository = "{tmp_path}/none"\naddress = "nowhere"\nmetrics-address = "off"\nlanes = 1'
    )

    done = _run("doctor", "--config", path)

    assert done.code == 1
    assert "FAILED   port nowhere" in done.out
    assert f"FAILED   models: {tmp_path}/none: No such file or directory" in done.out


def test_the_file_in_the_documentation_is_a_good_one(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(repository = .*?)```", OPERATIONS.read_text(), re.DOTALL)
    path = tmp_path / "seqserve.toml"
    path.write_text(example)

    done = _run("serve", "--config", path, "--print-config")

    assert done.code == 0, done.err
    given = {key: value for key, (value, place) in done.sources().items() if place == str(path)}
    assert given == tomllib.loads(example)


def test_every_type_of_setting_has_a_check(tmp_path: Path) -> None:
    path = tmp_path / "seqserve.toml"
    hints = get_type_hints(commands.serve)
    for name in set(hints) - {"ctx", "config", "print_config", "return"}:
        path.write_text(f"{name.replace('_', '-')} = 2026-01-01")  # no setting is a date
        with pytest.raises(InvalidSetting, match=r"is of the wrong type; .* is needed"):
            configuration.read(path, hints)
