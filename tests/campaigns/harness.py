"""What every campaign needs: the command line, checks that are held, a table, results in a file."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from typing import Any

from benchmarks import harness
from benchmarks.server_process import TRANSPORTS


@dataclass
class Claims:
    """What a campaign found of what is claimed."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)
    """Where, what was claimed, what was found, whether it holds."""

    def hold(self, where: str, claim: str, found: object, holds: bool) -> None:
        """Notes one of them."""
        self.rows.append((where, claim, str(found), bool(holds)))

    @property
    def broken(self) -> list[tuple[str, str, str, bool]]:
        """Those that do not hold."""
        return [row for row in self.rows if not row[-1]]

    def document(self) -> list[dict[str, Any]]:
        """For the results."""
        names = ("where", "claim", "found", "holds")
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that campaigns have in common."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="shorter and rougher")
    parser.add_argument("--transport", choices=TRANSPORTS, help="one alone, instead of both")
    return parser


def finish(name: str, title: str, claims: Claims, figures: object = None) -> None:
    """Prints the table, writes results/<name>.json, and exits with 1 where a claim is broken."""
    harness.show(
        title,
        ("where", "claim", "found", ""),
        [(*row, "" if holds else "BROKEN") for *row, holds in claims.rows],
    )
    print(_where())
    document = {"claims": claims.document(), "figures": figures}
    harness.write(name, document, package="tests.campaigns")
    sys.exit(1 if claims.broken else 0)


def _where() -> str:
    machine = harness.machine()
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}"
    )
