"""A million inputs for everything that reads bytes of strangers: no crash, no growth.

Each target runs in a process of its own, under atheris' libFuzzer (`fuzzed`), which mutates good
inputs by what it sees of the code that they reach. What a target is not expected to raise ends the
process, and the input that did it is printed.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.campaigns import harness
from tests.campaigns.harness import Claims

TARGETS = {
    "decoder": 1_000_000,
    "request": 1_000_000,
    "token": 1_000_000,
    "manifest": 200_000,  # a file each
}
"""How many inputs each gets."""
_QUICKER = 50
_GROWTH_MIB = 32

_RESIDENT = re.compile(r"rss: (\d+)Mb")
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")


@dataclass(frozen=True)
class Fuzzed:
    """What a target did."""

    inputs: int
    seconds: int
    grown_mib: int
    """From the first inputs to the last."""
    outcomes: dict[str, int]
    """Of all but the last few thousand inputs."""
    crash: str
    """What the process said last; empty where it went through all of its inputs."""


def fuzz(python: Path, target: str, inputs: int, seed: int) -> Fuzzed:
    """Runs one target.

    Args:
        python: One that has atheris.
        target: Of `fuzzed`.
        inputs: How many it gets.
        seed: Of the mutations.
    """
    with TemporaryDirectory() as folder:
        told, corpus = Path(folder) / "outcomes.json", Path(folder) / "corpus"
        corpus.mkdir()
        command = [str(python), "-m", "tests.campaigns.fuzzed", target, str(told), str(corpus)]
        options = [f"-runs={inputs}", f"-seed={seed}", f"-artifact_prefix={folder}/"]
        ran = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        resident = [int(mib) for mib in _RESIDENT.findall(ran.stderr)]
        done = _DONE.search(ran.stderr)
        return Fuzzed(
            inputs=int(done[1]) if done else 0,
            seconds=int(done[2]) if done else 0,
            grown_mib=resident[-1] - resident[0] if resident else 0,
            outcomes=json.loads(told.read_text()) if told.exists() else {},
            crash="" if done and not ran.returncode else ran.stderr[-2000:],
        )


def main() -> None:
    """Fuzzes every target in turn."""
    parser = harness.parser(__doc__)
    parser.add_argument("--python", type=Path, default=Path(".venv-fuzz/bin/python"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--times", type=int, default=1, help="how many times the inputs")
    given = parser.parse_args()
    claims, figures = Claims(), {}
    for target, inputs in TARGETS.items():
        asked = inputs * given.times // (_QUICKER if given.quick else 1)
        found = fuzz(given.python, target, asked, given.seed)
        print(
            f"{target}: {found.inputs:,} inputs in {found.seconds} s, {found.outcomes}", flush=True
        )
        if found.crash:
            print(found.crash, flush=True)
        claims.hold(target, f"{asked:,} inputs", f"{found.inputs:,}", found.inputs >= asked)
        claims.hold(target, "0 crashes", int(bool(found.crash)), not found.crash)
        claims.hold(
            target,
            f"memory grows by less than {_GROWTH_MIB} MiB",
            f"{found.grown_mib} MiB",
            found.grown_mib < _GROWTH_MIB,
        )
        figures[target] = found.__dict__
    harness.finish("fuzz_decoder", "Bytes of strangers, decoded", claims, figures)


if __name__ == "__main__":
    main()
