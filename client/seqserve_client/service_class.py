"""How urgent a call is; apart, so that the command line can show it at no cost."""

from __future__ import annotations

from enum import StrEnum


class ServiceClass(StrEnum):
    """Whether a call goes before others or behind them."""

    INTERACTIVE = "interactive"
    """Somebody waits."""
    BULK = "bulk"
    """Takes only what interactive calls leave."""
