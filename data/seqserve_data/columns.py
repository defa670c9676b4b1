"""Which columns of a table hold what: told by the user, or found by convention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

from seqserve_data.errors import InvalidLayout
from seqserve_data.places import Source

ID_NAMES = ("id", "sequence_id", "sequence")
ORDER_NAMES = ("step", "order", "time", "timestamp")
LABEL_NAMES = ("label", "class", "target")
# A data frame's index that was saved along with it, by pandas into .csv and .parquet.
_INDEX_NAMES = ("", "__index_level_0__")


@dataclass(frozen=True)
class Columns:
    """Names of columns in tabular files; what is not named is found by convention."""

    id: str | None = None
    """Which sequence a row belongs to; else the first of id, sequence_id, sequence."""
    order: str | None = None
    """What a sequence's steps are sorted by; else the first of step, order, time, timestamp,
    else the order in the file."""
    label: str | None = None
    """The sequence's class; else the first of label, class, target, else unlabelled."""
    features: tuple[str, ...] = ()
    """The features in order; else all remaining columns in the order of the file."""

    @property
    def named(self) -> tuple[str, ...]:
        """Every column that is told rather than found."""
        names = (self.id, self.order, self.label, *self.features)
        return tuple(name for name in names if name is not None)


def split_names(text: str | None) -> tuple[str, ...]:
    """Column names given in one text, with commas between."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


BY_CONVENTION = Columns()
"""Nothing is told."""


@dataclass(frozen=True)
class Layout:
    """The columns of a certain table in long form."""

    id: str
    order: str | None
    label: str | None
    features: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read."""
        names = (self.id, self.order, self.label, *self.features)
        return tuple(name for name in names if name is not None)


def layout(columns: Columns, names: Sequence[str], source: Source) -> Layout:
    """What the columns `names` of a table in long form hold; each has one role.

    Raises:
        InvalidLayout: a column told is not there or told twice, two columns have one name, none
            holds ids, no feature is left, or one looks like a saved index.
    """
    check_names(columns, names, source)
    sequence_id = find(columns.id, ID_NAMES, names, columns)
    if sequence_id is None:
        raise InvalidLayout(
            f"has no column of sequence ids; it has {listed(names)}, none of which is "
            f"{' or '.join(ID_NAMES)}: name the one that says which sequence a row belongs to "
            "(--id)",
            source.place(),
        )
    order = find(columns.order, ORDER_NAMES, names, columns)
    label = find(columns.label, LABEL_NAMES, names, columns)
    return Layout(
        id=sequence_id,
        order=order,
        label=label,
        features=columns.features or _remaining(names, {sequence_id, order, label}, source),
    )


def _remaining(
    names: Sequence[str], others: Container[str | None], source: Source
) -> tuple[str, ...]:
    """The feature columns where none are told."""
    features = tuple(name for name in names if name not in others)
    if not features:
        raise InvalidLayout(f"has no feature columns; it has {listed(names)}", source.place())
    for name in features:
        if name in _INDEX_NAMES:
            raise InvalidLayout(
                "looks like a saved index, which is no feature; leave it out of the file, or "
                "name the feature columns (--features)",
                source.place(column=name),
            )
    return features


def check_names(columns: Columns, names: Sequence[str], source: Source) -> None:
    """Refuses columns that are told twice or are not there, and names that two columns have.

    Raises:
        InvalidLayout: it is so; lists what there is.
    """
    for name in columns.named:
        if name not in names:
            raise InvalidLayout(f"has no column {name!r}; it has {listed(names)}", source.place())
        if columns.named.count(name) > 1:
            raise InvalidLayout(f"column {name!r} is named for two purposes", source.place())
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidLayout(f"has {count} columns named {name!r}", source.place())


def find(
    told: str | None, conventional: Sequence[str], names: Sequence[str], columns: Columns
) -> str | None:
    """The column told, else the first conventional one that is told for nothing else."""
    free = (name for name in conventional if name in names and name not in columns.named)
    return told if told is not None else next(free, None)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names as a message shows them, the first `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(repr(name) for name in names[:most]) + more) or "none"
