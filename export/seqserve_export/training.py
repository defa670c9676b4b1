"""Trains a classifier: labelled sequences in, a trained model out.

from seqserve_data import read
from seqserve_export.config import TrainingConfig
from seqserve_export.training import train

trained = train(read("train.csv"), TrainingConfig(hidden_size=32), validation=0.2)
"""

from __future__ import annotations

from pathlib import Path

from seqserve.v1.manifest_pb2 import Training
from seqserve_data import Dataset
from seqserve_export import device as devices
from seqserve_export.config import TrainingConfig
from seqserve_export.progress import Observer, Silent
from seqserve_export.recipe import Recipe, settle
from seqserve_export.results import evaluate
from seqserve_export.run import Run
from seqserve_export.run_folder import PREVIOUS, RUNNING, RunFolder
from seqserve_export.sets import Sets, Tensors
from seqserve_export.trained import TrainedModel


def train(
    data: Dataset,
    config: TrainingConfig | None = None,
    *,
    validation: Dataset | float | None = None,
    test: Dataset | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> TrainedModel:
    """Trains a classifier.

    Without a validation set the recipe runs to its end; with `auto` it is chosen first, by
    folds of the training set, and the model then learns from all of it. With a validation set
    choices are made by that, training stops when its loss no longer falls, and the weights are
    those it was lowest with.

    Args:
        data: Labelled sequences to learn from.
        config: Settings; what they leave open is chosen.
        validation: Labelled sequences to choose by, or the share of `data` to hold out.
        test: Labelled sequences that no choice sees.
        checkpoints: Folder of the run's checkpoints; None writes none.
        resume: Whether to go on with the run in `checkpoints`, where there is one.
        observer: Is told how it goes.

    Raises:
        DataError: the data cannot be learnt from.
        TrainingError: the run cannot begin or go on.
    """
    config, observer = config or TrainingConfig(), observer or Silent()
    device = devices.find(config.device)
    sets = Sets.of(data, validation, test, config.seed)
    recipe = settle(config, len(sets.train))
    folder, state = None, None
    if checkpoints:
        learnt_from = [sets.train, *filter(None, [sets.validation])]
        folder = RunFolder(checkpoints, recipe, learnt_from, sets.test)
        state = folder.unfinished() if resume else None
        if resume and not state and (finished := folder.finished()):
            observer.note(f"the run in {checkpoints} is finished")
            return finished
        if not state:
            _begin(folder, resume, observer)
    observer.note(f"{sets.describe()}; on {device}")
    with devices.undisturbed(device, recipe.threads):
        run = Run(len(sets.classes), device, observer, folder, state)
        trained = _train(run, config, recipe, sets)
    if folder:
        folder.finish(trained)
    return trained


def _begin(folder: RunFolder, resume: bool, observer: Observer) -> None:
    if resume:
        observer.note(f"nothing to resume in {folder.path}; starting anew")
    if folder.begin():
        observer.note(
            f"an unfinished run was in {folder.path}, and would have gone on with --resume; it is "
            f"kept as {PREVIOUS}: rename it to {RUNNING} to go back to it"
        )


def _train(run: Run, config: TrainingConfig, recipe: Recipe, sets: Sets) -> TrainedModel:
    tensors = Tensors.of(sets)
    outcome = None
    if recipe.auto:
        outcome = run.choose(config, recipe, tensors.train, tensors.validation)
        recipe = outcome.recipe
    fit = run.fit(recipe, tensors.train, tensors.validation)
    network = fit.finish()
    results = evaluate(network, tensors, outcome)
    network.mean.copy_(tensors.standardisation.mean)
    network.scale.copy_(tensors.standardisation.scale)
    network.temperature.fill_(results.temperature)
    return TrainedModel(
        network=network.cpu(),
        labels=sets.classes,
        feature_names=sets.train.feature_names,
        longest_steps=int(sets.train.sequences.lengths.max()),
        training=Training(
            data=sets.train.name,
            seed=recipe.seed,
            epochs=fit.epochs,
            updates=fit.updates,
            seconds=run.seconds,
            settings=recipe.settings() | sets.settings | {"device": run.device.type},
            train=results.train,
            validation=results.validation,
            test=results.test,
            final_loss=fit.mean_loss,
        ),
    )
