"""The lines that `seqserve serve --stats` logs, read again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LINE = re.compile(r"\bstats: (.*)")
_PAIR = re.compile(r"(\w+)=(\S+)")


@dataclass(frozen=True)
class Stats:
    """What the lanes did in a while, all lanes together."""

    figures: dict[str, float]
    """As the line names them."""

    @property
    def share_around(self) -> float:
        """Of the time in which a lane had work, the part outside of `run`."""
        around = self.figures["around_s"] + self.figures["given_way_s"]
        return around / (around + self.figures["run_s"])

    @property
    def share_given_way(self) -> float:
        """Of the same time, the part in which other threads had the lane's core."""
        given_way = self.figures["given_way_s"]
        return given_way / (given_way + self.figures["around_s"] + self.figures["run_s"])

    @property
    def share_idle(self) -> float:
        """Of all of the lanes' time, the part in which they had no work."""
        return self.figures["idle_s"] / self.seconds

    @property
    def seconds(self) -> float:
        """The lanes' time."""
        return sum(self.figures[name] for name in ("run_s", "around_s", "given_way_s", "idle_s"))


def read(lines: Iterable[str]) -> list[Stats]:
    """The stats among the lines that a server has printed, oldest first."""
    return [
        Stats({name: float(figure) for name, figure in _PAIR.findall(found[1])})
        for line in lines
        if (found := _LINE.search(line))
    ]
