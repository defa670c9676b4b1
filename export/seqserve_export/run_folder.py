"""The folder of a training run: what it is doing, to go on after a kill, and what came of it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from seqserve_data import Dataset
from seqserve_export import checkpoint
from seqserve_export.checkpoint import State
from seqserve_export.errors import InvalidCheckpoint
from seqserve_export.recipe import Recipe
from seqserve_export.trained import TrainedModel

RUNNING, FINAL, PREVIOUS = "running.pt", "final.pt", "previous.pt"

_SHARE = 0.05
"""Of the time goes to writing checkpoints at most; a run goes the same way from any of them."""

_FREE = ("device", "threads")
"""Settings a run may be resumed with others of: they move no more than a rounding."""


class RunFolder:
    """The checkpoints of one run.

    Args:
        path: The folder; created when missing.
        recipe: The run's settings, none left open.
        data: The sets it learns from and chooses by.
        test: The set that its model is tested by, if any.
    """

    def __init__(
        self, path: Path, recipe: Recipe, data: list[Dataset], test: Dataset | None
    ) -> None:
        self.path = path
        settings = recipe.settings()
        self._settings = {name: settings[name] for name in settings if name not in _FREE}
        self._data = _digest(data)
        self._test = _digest([test]) if test else ""
        self._next_save = 0.0

    def begin(self) -> bool:
        """Makes room for a new run; true where an unfinished one was set aside for it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / RUNNING).replace(self.path / PREVIOUS)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InvalidCheckpoint(f"cannot write to {self.path}: {error}") from error
        return True

    def unfinished(self) -> State | None:
        """The state that the run was last saved in; None where there is none.

        Raises:
            InvalidCheckpoint: what lies there is damaged, or of another run.
        """
        path = self.path / RUNNING
        if not path.exists():
            return None
        state = checkpoint.load(path, checkpoint.RUN)
        if differing := self._differing(state):
            raise InvalidCheckpoint(
                f"{path} is of another run ({'; '.join(differing)}). Give the same data and "
                "options to go on with it, or leave out --resume to start anew"
            )
        return state

    def finished(self) -> TrainedModel | None:
        """The model this run ended in; None where it has not, and another may have.

        Raises:
            InvalidCheckpoint: what lies there is damaged.
        """
        path = self.path / FINAL
        if not path.exists():
            return None
        state = checkpoint.load(path, checkpoint.MODEL)
        # Its figures are those of the set it was tested by: another set asks for a run of its own.
        if self._differing(state) or state.get("test") != self._test:
            return None
        return checkpoint.load_trained(path)

    def save(self, state: State) -> None:
        """Saves the run, unless it was saved a moment ago."""
        begin = time.monotonic()
        if begin < self._next_save:
            return
        checkpoint.save(self.path / RUNNING, checkpoint.RUN, {**state, **self._identity})
        end = time.monotonic()
        self._next_save = end + (end - begin) / _SHARE

    def finish(self, trained: TrainedModel) -> Path:
        """Saves the model in place of the run; returns where."""
        path = self.path / FINAL
        checkpoint.save_trained(path, trained, **self._identity, test=self._test)
        (self.path / RUNNING).unlink(missing_ok=True)
        return path

    @property
    def _identity(self) -> State:
        return {"settings": self._settings, "data": self._data}

    def _differing(self, state: State) -> list[str]:
        """What makes the state one of another run."""
        theirs, ours = state.get("settings", {}), self._settings
        differing = [
            f"--{name} was {theirs.get(name, 'open')}, is {ours.get(name, 'open')}"
            for name in sorted({*theirs, *ours})
            if theirs.get(name) != ours.get(name)
        ]
        if state.get("data") != self._data:
            differing.append("the data is not the same")
        return differing


def _digest(data: list[Dataset]) -> str:
    digest = hashlib.sha256()
    for dataset in data:
        digest.update(str(dataset.sequences.values.shape).encode())
        digest.update(dataset.sequences.values.data)
        digest.update(dataset.sequences.lengths.data)
        digest.update("\0".join(dataset.labels or ()).encode())
    return digest.hexdigest()
