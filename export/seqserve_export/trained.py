"""A trained model: what training hands to conversion, and what a checkpoint holds of it."""

from __future__ import annotations

from dataclasses import dataclass

from seqserve.v1.manifest_pb2 import Training
from seqserve_export.network import SequenceClassifier


@dataclass(frozen=True)
class TrainedModel:
    """Everything an artifact is made of."""

    network: SequenceClassifier
    """In eval mode, on the CPU, its standardisation and temperature set."""
    labels: tuple[str, ...]
    """The classes in the order of the logits' columns."""
    feature_names: tuple[str, ...]
    """Empty where the training data had none."""
    longest_steps: int
    """Steps of the longest training sequence."""
    training: Training
    """Settings and figures, as the manifest will have them."""
