"""What can go wrong between the data and a published artifact.

ExportError
├── TrainingError    a training run that cannot begin or go on
│   ├── InvalidSettings   a setting out of range, or settings that contradict one another
│   ├── UnsuitableData    sets that do not go together
│   ├── DeviceUnavailable the device asked for is not there
│   ├── Diverged          the loss is no longer a number
│   └── InvalidCheckpoint a file that is no checkpoint, or is one of something else
├── PublishError     an artifact that cannot be made or put in its place
│   ├── VersionExists    the version to publish is there already
│   └── NotProven        the graph does not answer as torch does; nothing was published
└── GraphError       a network that no graph can be built for
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of every error of this room."""


class TrainingError(ExportError):
    """A training run that cannot begin or go on."""


class InvalidSettings(TrainingError):
    """A setting out of range, or settings that contradict one another."""


class UnsuitableData(TrainingError):
    """Sets that do not go together: one to learn from and one to choose or to test by."""


class DeviceUnavailable(TrainingError):
    """The device asked for is not there."""


class Diverged(TrainingError):
    """The loss is no longer a number."""


class InvalidCheckpoint(TrainingError):
    """A file that is no checkpoint: damaged, of something else, or of another run."""


class GraphError(ExportError):
    """A network that no graph can be built for."""


class PublishError(ExportError):
    """An artifact that cannot be made or put in its place."""


class VersionExists(PublishError):
    """The version to publish is there already; what is published never changes."""


class NotProven(PublishError):
    """The graph does not answer as torch does, or not in every company; nothing was published."""
