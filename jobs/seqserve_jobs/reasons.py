"""Faults of sequences, counted by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

MAX_KINDS = 50
"""Whatever a file holds, a summary is read by people."""
OTHERS = "other reasons"

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d_,]*(\.\d+)?(e[-+]?\d+)?\b")


def kind(fault: str) -> str:
    """A fault without what is of one sequence alone: `step 3 is NaN` is `step … is NaN`.

    What follows a semicolon is what is allowed, and so is of all of them.
    """
    found, semicolon, allowed = _QUOTED.sub("…", fault).partition("; ")
    return _NUMBER.sub("…", found) + semicolon + allowed


def counted(faults: Iterable[str]) -> dict[str, int]:
    """How many there are of each kind, the most frequent first."""
    return merged([Counter(map(kind, faults))])


def merged(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Several counts as one, of at most `MAX_KINDS` kinds."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    others = total.pop(OTHERS, 0)
    ranked = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    others += sum(count for _, count in ranked[MAX_KINDS:])
    return dict(ranked[:MAX_KINDS]) | ({OTHERS: others} if others else {})
