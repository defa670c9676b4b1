"""Which versions of which models a server offers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seqserve.artifact import is_model_name
from seqserve_server.errors import InvalidSetting

_NUMBERS = re.compile(r"[1-9][0-9]{0,17}(,[1-9][0-9]{0,17})*")


@dataclass(frozen=True)
class Choice:
    """Which versions of one model."""

    numbers: tuple[int, ...] | None = None
    """These versions and no others, ascending; None chooses among all that are published."""
    latest: bool = True
    """With no numbers: the newest that proves sound alone, rather than all."""

    def candidates(self, published: Sequence[int]) -> list[int]:
        """The versions to try, newest first; where `latest`, until one of them is sound."""
        return sorted(published if self.numbers is None else self.numbers, reverse=True)

    @property
    def one_is_enough(self) -> bool:
        """Whether the first sound candidate is served alone."""
        return self.numbers is None and self.latest


LATEST = Choice()
ALL = Choice(latest=False)


@dataclass(frozen=True)
class VersionPolicy:
    """A choice for every model, and others for the models that are named."""

    default: Choice = LATEST
    """For a model that is not named."""
    named: Mapping[str, Choice] = field(default_factory=dict)
    """By model name."""

    def choice(self, model: str) -> Choice:
        """Which versions of `model` are offered."""
        return self.named.get(model, self.default)


def parse(words: Sequence[str]) -> VersionPolicy:
    """The policy that the command line states: `latest`, `all`, `3`, `3,5` or `NAME=…`.

    Raises:
        InvalidSetting: a word that is none of these, or two for one model.
    """
    choices: dict[str, Choice] = {}
    for word in words:
        name, named, versions = word.rpartition("=")
        if named and not is_model_name(name):
            raise InvalidSetting(f"--version-policy {word}: {name!r} cannot name a model")
        if name in choices:
            raise InvalidSetting(
                f"--version-policy {word}: there is one for "
                f"{name or 'all other models'} already; join numbers as in 3,5"
            )
        choices[name] = _choice(word, versions)
    return VersionPolicy(choices.pop("", LATEST), choices)


def _choice(word: str, versions: str) -> Choice:
    if versions == "latest":
        return LATEST
    if versions == "all":
        return ALL
    if not _NUMBERS.fullmatch(versions):
        raise InvalidSetting(
            f"--version-policy {word} is none of: latest, all, 3 or 3,5, "
            "each also for one model as in speakers=3"
        )
    return Choice(tuple(sorted({int(number) for number in versions.split(",")})))
