"""How many times what is predicted a wait is taken for, learnt from whether answers came in time.

A wait can be longer than what goes before costs: rows of later work run along, short ones pass long
ones, other threads have their share of the cores. Work for an answer that comes late is lost, and
refusing costs little; but to refuse what could have been answered is a loss too.
"""

from __future__ import annotations

import math

_LEAST, _MOST = 1.5, 4.0
_MORE, _LESS = 1.25, 0.999
"""What a late answer and one in time do to it: they are even where 1 of 200 is late."""
_HALF_LIFE_S = 20.0
"""Of what it is over the least: a mistake is of its time."""


class Caution:
    """Of one service class. No clock."""

    def __init__(self) -> None:
        self._over = 0.0  # the least, at `_at`
        self._at = 0.0
        self._learnt = -math.inf

    def factor(self, now: float) -> float:
        """What a wait is to be multiplied with."""
        if not self._over:
            return _LEAST
        return _LEAST + self._over * math.exp2((self._at - now) / _HALF_LIFE_S)

    def late(self, arrived: float, now: float) -> None:
        """Learns of an answer that came too late, or not at all.

        One mistake makes many answers late: those to work that came before the last lesson teach
        no more.
        """
        if arrived >= self._learnt:
            self._learnt = now
            self._set(self.factor(now) * _MORE, now)

    def in_time(self, now: float) -> None:
        """Learns of an answer in time to work that was near being refused."""
        if self._over:
            self._set(self.factor(now) * _LESS, now)

    def _set(self, factor: float, now: float) -> None:
        self._over = min(max(factor, _LEAST), _MOST) - _LEAST
        self._at = now
