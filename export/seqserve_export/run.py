"""One training run: its candidates' fits and then the model's, each resumable at any epoch."""

from __future__ import annotations

import functools
import operator
import time

import numpy as np
import torch
from torch import Tensor

from seqserve_export import auto
from seqserve_export.auto import Outcome
from seqserve_export.checkpoint import State
from seqserve_export.config import TrainingConfig
from seqserve_export.evaluation import accuracy, predict
from seqserve_export.examples import Examples
from seqserve_export.fit import Fit
from seqserve_export.progress import Observer
from seqserve_export.recipe import Recipe
from seqserve_export.run_folder import RunFolder

_LINES = 20
"""Epochs that get a line of their own where their number was not asked for."""

Splits = list[tuple[Examples, Examples]]
"""What to learn from, and what is held out from it."""

_FINAL, _TRIAL = 0, 1
"""What a fit's random numbers are for."""


class Run:
    """The fits of one run, in order.

    Args:
        classes: Classes to tell apart.
        device: Where to train.
        observer: Is told how it goes.
        folder: Where to save; None saves nothing.
        state: As `folder` saved it, to go on from; None for a new run.
    """

    def __init__(
        self,
        classes: int,
        device: torch.device,
        observer: Observer,
        folder: RunFolder | None,
        state: State | None,
    ) -> None:
        self._classes = classes
        self.device = device
        self._observer = observer
        self._folder = folder
        state = state or {"held_out": [], "fit": None, "seconds": 0.0}
        self._held_out: list[Tensor] = state["held_out"]
        self._interrupted: State | None = state["fit"]
        self._begin: float = time.monotonic() - state["seconds"]

    @property
    def seconds(self) -> float:
        """Wall-clock time so far, that before a kill included."""
        return time.monotonic() - self._begin

    def choose(
        self, config: TrainingConfig, base: Recipe, train: Examples, validation: Examples | None
    ) -> Outcome:
        """Tries candidates and gives the best.

        Args:
            config: As the user gave it: what was given is not tried otherwise.
            base: The settled recipe.
            train: To learn from.
            validation: To choose by; None holds out folds of the training set.
        """
        splits = [(train, validation)] if validation is not None else _folds(train, base.seed)
        held_out = functools.reduce(operator.add, (held_out for _, held_out in splits))
        tried = auto.changes(config)
        outcomes: list[Outcome] = []
        while len(outcomes) < len(tried):
            recipe = auto.candidate(base, tried, outcomes)
            what = f"choosing {len(outcomes) + 1}/{len(tried)}"
            short = auto.trial(recipe, len(train), len(splits))
            logits = self._try(short, splits, what, len(outcomes))
            outcomes.append(Outcome(recipe, logits, held_out))
            held_out_figures = (
                f"held-out loss {float(outcomes[-1].losses.mean()):.4f}, "
                f"accuracy {accuracy(logits, held_out.targets):.4f}"
            )
            self._observer.note(f"tried {_describe(recipe)}: {held_out_figures}")
        chosen = auto.choose(outcomes)
        self._observer.note(
            f"chose {_describe(chosen.recipe)}: the first tried, but where another's held-out "
            "loss was lower beyond doubt (two standard errors)"
        )
        return chosen

    def fit(self, recipe: Recipe, train: Examples, validation: Examples | None) -> Fit:
        """Trains the model itself."""
        epochs = recipe.total_epochs(len(train))
        every = 1 if recipe.epochs else -(-epochs // _LINES)
        return self._fit(recipe, train, validation, (recipe.seed, _FINAL), "training", every)

    def _try(self, recipe: Recipe, splits: Splits, what: str, number: int) -> Tensor:
        """The held-out sequences' logits, those of all splits together."""
        done = slice(number * len(splits), (number + 1) * len(splits))
        for fold, (train, held_out) in enumerate(splits):
            if len(self._held_out) == done.start + fold:
                # The same random numbers for each candidate, so that only the change differs.
                seed = (recipe.seed, _TRIAL, fold)
                fit = self._fit(recipe, train, None, seed, what, every=0)
                self._held_out.append(predict(fit.finish(), held_out))
        return torch.cat(self._held_out[done])

    def _fit(
        self,
        recipe: Recipe,
        train: Examples,
        validation: Examples | None,
        seed: tuple[int, ...],
        what: str,
        every: int,
    ) -> Fit:
        fit = Fit(recipe, self._classes, train, validation, seed, self.device)
        if self._interrupted is not None:
            fit.load_state(self._interrupted)
            self._interrupted = None
            self._observer.note(f"resumed {what} after epoch {fit.epochs}")
        self._observer.begin(what, recipe.total_epochs(len(train)), done=fit.epochs, every=every)
        while not fit.finished:
            self._observer.epoch(fit.run_epoch())
            if self._folder:
                self._folder.save(
                    {"held_out": self._held_out, "fit": fit.state(), "seconds": self.seconds}
                )
        return fit


def _folds(train: Examples, seed: int) -> Splits:
    folds = auto.stratified_folds(train.targets, seed)
    return [
        (train.take(np.flatnonzero(folds != fold)), train.take(np.flatnonzero(folds == fold)))
        for fold in range(auto.rounds(len(train)))
    ]


def _describe(recipe: Recipe) -> str:
    """What candidates differ in."""
    return (
        f"head {recipe.head}, noise {recipe.input_noise:g}, "
        f"input dropout {recipe.input_dropout:g}, learning rate {recipe.learning_rate:g}"
    )
