"""What a user sees of a running training: a live display on a terminal, else plain lines."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from seqserve_export.fit import Epoch


class Observer(Protocol):
    """Is told how a training run goes."""

    def begin(self, what: str, epochs: int, *, done: int = 0, every: int = 1) -> None:
        """A fit begins.

        Args:
            what: What it is for.
            epochs: In the whole fit.
            done: Of these, before this run was resumed.
            every: How many epochs to a line of their own; 0 for none at all.
        """
        ...

    def epoch(self, epoch: Epoch) -> None:
        """An epoch of the fit is over."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...


class Silent:
    """Shows nothing."""

    def begin(self, what: str, epochs: int, *, done: int = 0, every: int = 1) -> None:
        """See Observer."""

    def epoch(self, epoch: Epoch) -> None:
        """See Observer."""

    def note(self, text: str) -> None:
        """See Observer."""


class Display:
    """Lines on a console and, where it is a terminal, a bar under them.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._every = 1

    def __enter__(self) -> Self:
        """Starts the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Takes the bar away; the lines stay."""
        self._bar.stop()

    def begin(self, what: str, epochs: int, *, done: int = 0, every: int = 1) -> None:
        """See Observer."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=epochs, completed=done, figures="")
        self._every = every

    def epoch(self, epoch: Epoch) -> None:
        """See Observer."""
        if self._task is not None:
            self._bar.update(self._task, completed=epoch.number, figures=_short(epoch))
        if self._every and (epoch.number % self._every == 0 or epoch.number == epoch.of):
            self.note(_line(epoch))

    def note(self, text: str) -> None:
        """See Observer."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _line(epoch: Epoch) -> str:
    width = len(str(epoch.of))
    text = (
        f"epoch {epoch.number:>{width}}/{epoch.of}  last batch's loss {epoch.last_loss:.4f}  "
        f"mean loss {epoch.mean_loss:.4f}"
    )
    if epoch.validation:
        text += (
            f"  validation loss {epoch.validation.loss:.4f}  "
            f"accuracy {epoch.validation.accuracy:.4f}"
        )
    return text


def _short(epoch: Epoch) -> str:
    text = f"loss {epoch.mean_loss:.4f}"
    return text + f"  accuracy {epoch.validation.accuracy:.4f}" if epoch.validation else text
