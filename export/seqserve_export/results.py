"""What a run came to: the temperature, and the figures of every set."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seqserve.v1.manifest_pb2 import SplitFigures
from seqserve_export.auto import Outcome
from seqserve_export.calibration import fit_temperature
from seqserve_export.evaluation import figures, predict
from seqserve_export.examples import Examples
from seqserve_export.network import SequenceClassifier
from seqserve_export.sets import Tensors


@dataclass(frozen=True)
class Results:
    """A trained network's temperature and figures."""

    temperature: float
    """1 where nothing was held out to fit it by."""
    train: SplitFigures
    """Of the sequences the network learnt from."""
    validation: SplitFigures | None
    """Of the validation set; without one, of the folds held out from the chosen candidate, by
    networks that had not seen them; None where nothing was held out."""
    test: SplitFigures | None
    """Of the test set, where there is one."""


def evaluate(network: SequenceClassifier, tensors: Tensors, outcome: Outcome | None) -> Results:
    """Calibrates and evaluates a trained network.

    Args:
        network: Without standardisation, which the tensors have had.
        tensors: The sets.
        outcome: Of the chosen candidate; None where nothing was chosen.
    """
    validation: tuple[Tensor, Examples] | None = None
    if tensors.validation is not None:
        validation = predict(network, tensors.validation), tensors.validation
    elif outcome is not None:
        validation = outcome.logits, outcome.held_out
    temperature = 1.0
    if validation:
        temperature = fit_temperature(validation[0], validation[1].targets)

    def of(examples: Examples) -> SplitFigures:
        return figures(predict(network, examples), examples, temperature)

    return Results(
        temperature,
        train=of(tensors.train),
        validation=validation and figures(*validation, temperature),
        test=None if tensors.test is None else of(tensors.test),
    )
