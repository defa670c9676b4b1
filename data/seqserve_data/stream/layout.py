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
    return replace(choose_form(free, columns, wanted, source), kept=tuple(keep))


def check_roles(layout: Layout, schema: pa.Schema, source: Source) -> None:
    """Refuses ids that cannot be told apart, and an order that does not sort.

    Raises:
        InvalidLayout: says which column, and what it holds.
    """
    for role in (layout.id, layout.order):
        if role is None:
            continue
        kind = schema.field(role).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        binary = pa.types.is_binary(value) or pa.types.is_large_binary(value)
        binary = binary or pa.types.is_fixed_size_binary(value)
        if not (_is_plain(value) or (binary and role == layout.id)):
            raise InvalidLayout(
                f"holds {kind}; text or numbers are needed", source.place(column=role)
            )


def _is_plain(kind: pa.DataType) -> bool:
    """Whether Arrow compares values of this type."""
    text = arrow.is_text(kind) or pa.types.is_string_view(kind)
    number = arrow.is_number(kind) and not pa.types.is_float16(kind)
    time = pa.types.is_temporal(kind) and not pa.types.is_interval(kind)
    return text or number or time or pa.types.is_null(kind)


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
                "feature columns (--features) to leave it out",
                source.place(column=name),
            )
        if layout.nested and not arrow.is_list(kind) and not pa.types.is_null(kind):
            raise InvalidLayout(f"holds {kind}; lists are needed", source.place(column=name))


def _nested(schema: pa.Schema, columns: Columns, wanted: Wanted, source: Source) -> Layout:
    found = nested.layout(columns, schema, source)
    features, aside = _of_numbers(found.features, columns, schema)
    if not columns.features:
        whole = [name for name in features if _holds_steps(schema.field(name).type)]
        features = tuple(name for name in STEPS_NAMES if name in whole)[:1] or features
    whole_steps = any(_holds_steps(schema.field(name).type) for name in features)
    if whole_steps and len(features) > 1:
        raise InvalidLayout(
            f"has the list columns {listed(features)}, and some hold whole steps; name the one "
            "feature column to read (--features)",
            source.place(),
        )
    if not whole_steps:
        _check_number(features, aside, columns, wanted, source)
    return Layout(True, found.id, None, features, whole_steps, ())


def _long(schema: pa.Schema, columns: Columns, wanted: Wanted, source: Source) -> Layout:
    found = long_layout(columns, schema.names, source)
    features, aside = _of_numbers(found.features, columns, schema)
    _check_number(features, aside, columns, wanted, source)
    return Layout(False, found.id, found.order, features, False, ())


def _of_numbers(
    names: tuple[str, ...], columns: Columns, schema: pa.Schema
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The features, and the columns that are none since they were not named and hold no numbers."""
    if columns.features:
        return names, ()
    features = tuple(name for name in names if _holds_numbers(schema.field(name).type))
    return features, tuple(name for name in names if name not in features)


def _check_number(
    features: tuple[str, ...],
    aside: tuple[str, ...],
    columns: Columns,
    wanted: Wanted,
    source: Source,
) -> None:
    if len(features) != wanted.features:
        told = "are named" if columns.features else "hold numbers and are free"
        named = f": {listed(wanted.names)}" if wanted.names else ""
        left = f"; left aside, as they hold no numbers: {listed(aside)}" if aside else ""
        raise InvalidLayout(
            f"the model takes {wanted.features} features{named}; the columns that {told} are "
            f"{len(features)}: {listed(features)}{left}; name the feature columns (--features)",
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
    """Numbers, or lists of them; what is true or false is one only where it is named."""
    while arrow.is_list(kind):
        kind = arrow.item_type(kind)
    return arrow.is_number(kind) and not pa.types.is_boolean(kind)
