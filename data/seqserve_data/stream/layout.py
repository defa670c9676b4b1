"""Which columns of an input hold what, and whether the model can take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from seqserve_data import arrow, nested
from seqserve_data.columns import ID_NAMES, ORDER_NAMES, Columns, check_names, listed
from seqserve_data.columns import layout as long_layout
from seqserve_data.errors import InvalidLayout
from seqserve_data.jsonl import STEPS_NAMES
from seqserve_data.places import Source
from seqserve_data.stream.block import Wanted


@dataclass(frozen=True)
class Layout:
    """The columns that are read of every file of an input."""

    nested: bool
    """Whether a record is a sequence, in list columns; else it is a step."""
    id: str | None
    """None where records are sequences and none holds ids."""
    order: str | None
    """What a sequence's steps are sorted by; None where they come in order."""
    features: tuple[str, ...]
    whole_steps: bool
    """Whether the one feature column holds lists of steps."""
    kept: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        names = (self.id, self.order, *self.features, *self.kept)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def plain(self) -> tuple[str, ...]:
        """Those of them that are not features: whose types must agree from file to file."""
        names = (self.id, self.order, *self.kept)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def __str__(self) -> str:
        """For people."""
        form = "one row a sequence" if self.nested else "one row a step"
        roles = [f"ids from {self.id!r}" if self.id else "rows are their ids"]
        if self.order:
            roles.append(f"steps sorted by {self.order!r}")
        what = "steps" if self.whole_steps else "features"
        roles.append(f"{what} from {listed(self.features)}")
        if self.kept:
            roles.append(f"kept {listed(self.kept)}")
        return f"{form}; {', '.join(roles)}"


def choose(
    schema: pa.Schema, columns: Columns, wanted: Wanted, keep: Sequence[str], source: Source
) -> Layout:
    """What the columns of a file hold: told, else the model's own names, else by convention.

    Raises:
        InvalidLayout: a column is not there or not of the type needed, or the features are not
            as many as the model takes.
    """
    check_names(columns, schema.names, source)
    for name in keep:
        if name not in schema.names:
            raise InvalidLayout(
                f"has no column {name!r} to keep; it has {listed(schema.names)}", source.place()
            )
        if list(keep).count(name) > 1:
            raise InvalidLayout(f"column {name!r} is to be kept twice", source.place())
    if not columns.features and wanted.names and set(wanted.names) <= set(schema.names):
        columns = replace(columns, features=wanted.names)
    # A column that is handed through is no feature unless it is named one.
    others = set(keep) - {*columns.named, *ID_NAMES, *ORDER_NAMES}
    free = pa.schema([field for field in schema if field.name not in others])
    choose_form = _nested if nested.is_nested(free, columns) else _long
    chosen = replace(choose_form(free, columns, wanted, source), kept=tuple(keep))
    for role in (chosen.id, chosen.order):
        if role is not None and pa.types.is_nested(schema.field(role).type):
            raise InvalidLayout(
                f"holds {schema.field(role).type}; text or numbers are needed",
                source.place(column=role),
            )
    return chosen


def check_features(layout: Layout, schema: pa.Schema, wanted: Wanted, source: Source) -> None:
    """Refuses feature columns of a file that hold no numbers, or lists where others do not.

    Raises:
        InvalidLayout: says which column, and what it holds.
    """
    for name in layout.features:
        kind = schema.field(name).type
        cell = kind
        for _ in range(layout.nested + layout.whole_steps):
            if not arrow.is_list(cell):
                break
            cell = arrow.item_type(cell)
        if arrow.is_list(cell) or not (arrow.is_number(cell) or pa.types.is_null(cell)):
            needed = "lists of steps" if layout.whole_steps else "lists of numbers"
            raise InvalidLayout(
                f"holds {kind}; {needed if layout.nested else 'numbers'} are needed: name the "
                "feature columns to leave it out",
                source.place(column=name),
            )
        if layout.nested and not arrow.is_list(kind) and not pa.types.is_null(kind):
            raise InvalidLayout(f"holds {kind}; lists are needed", source.place(column=name))


def _nested(schema: pa.Schema, columns: Columns, wanted: Wanted, source: Source) -> Layout:
    found = nested.layout(columns, schema, source)
    features = found.features
    if not columns.features:
        features = tuple(name for name in features if _holds_numbers(schema.field(name).type))
        whole = [name for name in features if _holds_steps(schema.field(name).type)]
        features = tuple(name for name in STEPS_NAMES if name in whole)[:1] or features
    whole_steps = any(_holds_steps(schema.field(name).type) for name in features)
    if whole_steps and len(features) > 1:
        raise InvalidLayout(
            f"has the list columns {listed(features)}, and some hold whole steps; name the one "
            "feature column to read",
            source.place(),
        )
    if not whole_steps:
        _check_number(features, columns, wanted, source)
    return Layout(True, found.id, None, features, whole_steps, ())


def _long(schema: pa.Schema, columns: Columns, wanted: Wanted, source: Source) -> Layout:
    found = long_layout(columns, schema.names, source)
    features = found.features
    if not columns.features:
        features = tuple(name for name in features if arrow.is_number(schema.field(name).type))
    _check_number(features, columns, wanted, source)
    return Layout(False, found.id, found.order, features, False, ())


def _check_number(
    features: tuple[str, ...], columns: Columns, wanted: Wanted, source: Source
) -> None:
    if len(features) != wanted.features:
        told = "are named" if columns.features else "hold numbers and are free"
        named = f": {listed(wanted.names)}" if wanted.names else ""
        raise InvalidLayout(
            f"the model takes {wanted.features} features{named}; the columns that {told} are "
            f"{len(features)}: {listed(features)}; name the feature columns",
            source.place(),
        )
    if features != wanted.names and sorted(features) == sorted(wanted.names):
        raise InvalidLayout(
            f"the features are named in the order {listed(features)}; the model has them in the "
            f"order {listed(wanted.names)}",
            source.place(),
        )


def _holds_steps(kind: pa.DataType) -> bool:
    return arrow.is_list(kind) and arrow.is_list(arrow.item_type(kind))


def _holds_numbers(kind: pa.DataType) -> bool:
    while arrow.is_list(kind):
        kind = arrow.item_type(kind)
    return arrow.is_number(kind)
