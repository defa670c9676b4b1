"""What there is to choose from, and what holds where nothing is said.

Apart, so that the command line can show it at no cost.
"""

from __future__ import annotations

from enum import StrEnum

SHARD_SEQUENCES = 16_384
"""Of a shard, at most."""
SHARD_STEPS = 524_288
"""Of all sequences of a shard together, at most."""
WINDOW = 16
"""Requests under way at a service, over all its replicas, at most."""
PATIENCE_S = 300.0
"""How long a service may be away."""


class Shown(StrEnum):
    """What a job shows while it runs."""

    AUTO = "auto"
    """The bar on a terminal, else lines."""
    BAR = "bar"
    LINES = "lines"
    OFF = "off"
    """Nothing; and no summary either, unless sequences were refused."""


class Where(StrEnum):
    """Where a job runs."""

    LOCAL = "local"
    """In this process."""
    RAY = "ray"
    """On a Ray cluster."""
