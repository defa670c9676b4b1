"""An input of any size, read as blocks of sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from seqserve_data.columns import BY_CONVENTION, Columns, check_names, listed
from seqserve_data.errors import InvalidLayout
from seqserve_data.places import Source
from seqserve_data.stream import cutting, forms, lists, steps
from seqserve_data.stream.block import START, Block, Position, Wanted
from seqserve_data.stream.cutting import Cut
from seqserve_data.stream.files import File, Sources, find
from seqserve_data.stream.layout import Layout, check_features, check_roles, choose
from seqserve_data.stream.records import Reader
from seqserve_data.stream.recurring import Recurrence
from seqserve_data.stream.rows import Rows, Shape, plain, table
from seqserve_data.stream.run import Run
from seqserve_data.stream.table import TableReader

_OPENED_AT_ONCE = 16
"""Files whose footers are read at a time: in an object store each is a wait."""


@dataclass(frozen=True, eq=False)
class Input:
    """Files of sequences, one row a step or one row a sequence, good and bad.

    Memory is bounded, whatever the size of files and row groups and the number of sequences: held
    are a batch of records, as its reader states it; twice a block's limits; and of a sequence that
    goes on from batch to batch as many steps as the model takes. Where records are steps and their
    ids do not ascend, 8 bytes a sequence are held to find one that comes again.
    """

    files: tuple[str, ...]
    """In the order they are read, as messages name them."""
    wanted: Wanted
    layout: Layout
    _files: tuple[File, ...]
    _readers: tuple[Reader, ...]
    _types: Mapping[str, pa.DataType]

    @classmethod
    def open(
        cls,
        source: Sources,
        columns: Columns,
        *,
        wanted: Wanted,
        keep: Sequence[str] = (),
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Finds the files, and checks that their columns are what the model takes.

        Args:
            source: A path, glob, directory or fsspec URL, or a list of those.
            columns: Which column holds what. Where no features are named: the model's own
                names where all are there, else the remaining columns of numbers.
            wanted: What the model takes.
            keep: Columns to hand through; of a sequence of many rows, its first row's.
            storage_options: For fsspec: what a store wants to know.

        Raises:
            DataError: names the file, and says what is wrong with it.
        """
        files = find(source, storage_options)
        told = (*columns.features, *wanted.names)
        file, first = _first(files, told)
        schema = _with_partitions(first.schema, file)
        try:
            layout = choose(schema, columns, wanted, keep, Source(file.name))
        except InvalidLayout as error:
            if first.rows != 0 or not _is_silent(first.schema):
                raise
            whole = ", as all files of the input are" if len(files) > 1 else ""
            raise InvalidLayout(f"is empty{whole}: it has no rows", file.place()) from error
        with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
            readers = tuple(
                pool.map(lambda file: forms.open_reader(file, layout.features, guess=False), files)
            )
        schemas = {}
        for file, reader in zip(files, readers, strict=True):
            schema = _with_partitions(reader.schema, file)
            if reader.rows != 0 or set(layout.names) <= set(schema.names):
                _check(layout, schema, wanted, file)
                schemas[file] = schema
        return cls(
            tuple(file.name for file in files),
            wanted,
            layout,
            files,
            readers,
            _common_types(layout, schemas),
        )

    @classmethod
    def of_table(
        cls, table: pa.Table, columns: Columns, *, wanted: Wanted, keep: Sequence[str] = ()
    ) -> Self:
        """A table in memory, as if it were a file; it has no fingerprint.

        Args:
            table: One row a step, or one row a sequence.
            columns: As for `open`.
            wanted: What the model takes.
            keep: Columns to hand through.

        Raises:
            DataError: its columns are not what the model takes.
        """
        file = File("the table", "", LocalFileSystem(), "", {})
        layout = choose(table.schema, columns, wanted, keep, Source(file.name))
        _check(layout, table.schema, wanted, file)
        types = _common_types(layout, {file: table.schema})
        return cls((file.name,), wanted, layout, (file,), (TableReader(table),), types)

    @property
    def rows(self) -> int | None:
        """Records of all files, None where their form does not say."""
        return self.rows_before(self._end)

    def rows_before(self, position: Position) -> int | None:
        """Records that lie before a position, None where the files' form does not say."""
        counts = [reader.rows for reader in self._readers[: position.file]]
        known = [count for count in counts if count is not None]
        return sum(known) + position.row if len(known) == len(counts) else None

    def describe(self) -> str:
        """Form and columns, in a line for people."""
        count = "1 file" if len(self.files) == 1 else f"{len(self.files)} files"
        return f"{count} ({self._files[0].suffix}), {self.layout}"

    def fingerprint(self) -> str:
        """What is another when a file's name or content is: 64 hexadecimal digits.

        Raises:
            DataError: a file cannot be read.
        """
        sha256 = hashlib.sha256()
        for file in self._files:
            sha256.update(f"{len(file.relative)} {file.relative} {file.digest()}\n".encode())
        return sha256.hexdigest()

    def nothing(self) -> Block:
        """A block of no sequences, with the columns that every block has."""
        ids, kept = self.layout.id, self.layout.kept
        return Block(
            begin=Position(),
            end=Position(),
            ids=pa.array([], self._types[ids] if ids is not None else pa.string()),
            good=np.empty(0, np.int64),
            sequences=None,
            faults={},
            kept=table({name: pa.array([], self._types[name]) for name in kept}, 0),
        )

    def blocks(
        self,
        begin: Position = START,
        *,
        max_sequences: int,
        max_steps: int,
        check_ids: bool = True,
    ) -> Iterator[Block]:
        """Every sequence from `begin` on, in blocks that are cut by content alone.

        A block closes when one more sequence would exceed a limit.

        Args:
            begin: An earlier block's end; what lies before it is not read.
            max_sequences: Of a block, good and bad.
            max_steps: Of a block, those of sequences too long for the model not counted; a
                sequence of more is a block of its own.
            check_ids: Whether to read the ids that lie before `begin` too, so that one that comes
                again is found wherever it was.

        Raises:
            DataError: a file cannot be read, or an id comes again.
        """
        runs = self._runs(self.layout, begin)
        if not self.layout.nested and (check_ids or begin == START):
            runs = self._recurrence().checked(runs, begin)
        return cutting.blocks(runs, self._end, max_sequences=max_sequences, max_steps=max_steps)

    def cuts(self, *, max_sequences: int, max_steps: int) -> Iterator[Cut]:
        """The borders of all blocks, from the columns that tell of lengths alone.

        Raises:
            DataError: as `blocks`.
        """
        features = self.layout.features[:1] if self.layout.nested else ()
        layout = replace(self.layout, features=features, order=None, kept=())
        if self.layout.nested:
            runs = lists.unjudged(self._rows(layout, START), self.wanted)
        else:
            runs = self._runs(layout, START)
            runs = self._recurrence().checked(runs, START)
        return cutting.cuts(runs, self._end, max_sequences=max_sequences, max_steps=max_steps)

    @property
    def _end(self) -> Position:
        return Position(len(self._files), 0)

    def _runs(self, layout: Layout, begin: Position) -> Iterator[Run]:
        gather = lists.runs if layout.nested else steps.runs
        return gather(self._rows(layout, begin), layout, self.wanted)

    def _recurrence(self) -> Recurrence:
        assert self.layout.id is not None  # where a row is a step, something says of what
        layout = replace(self.layout, features=(), order=None, kept=())
        return Recurrence(lambda: self._runs(layout, START), self.layout.id, self._files)

    def _rows(self, layout: Layout, begin: Position) -> Iterator[Rows]:
        for index in range(begin.file, len(self._files)):
            file, reader = self._files[index], self._readers[index]
            if reader.rows == 0:
                continue
            row = begin.row if index == begin.file else 0
            shape = Shape(
                index,
                layout,
                self._types,
                {k: v for k, v in file.partitions.items() if k not in reader.schema.names},
                id_prefix="" if len(self._files) == 1 else f"{file.relative}:",
            )
            names = [name for name in layout.names if name not in shape.constants]
            # Records of no columns would be no records.
            for records in reader.records(names or self.layout.features[:1], row):
                yield shape.rows(records)


def _first(files: Sequence[File], features: Sequence[str]) -> tuple[File, Reader]:
    """The file that tells of the columns: the first that has records, if any."""
    first = None
    for file in files:
        reader = forms.open_reader(file, features, guess=True)
        if reader.rows != 0:
            return file, reader
        first = first or (file, reader)
    assert first is not None  # `find` gives at least one
    return first


def _is_silent(schema: pa.Schema) -> bool:
    """Whether it does not tell what its columns hold, as of a file of text without records."""
    return all(pa.types.is_string(field.type) for field in schema)


def _with_partitions(schema: pa.Schema, file: File) -> pa.Schema:
    """The columns of a file and those that its path tells; the file's own come first."""
    for name in file.partitions:
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return schema


def _check(layout: Layout, schema: pa.Schema, wanted: Wanted, file: File) -> None:
    check_names(BY_CONVENTION, schema.names, Source(file.name))
    for name in layout.names:
        if name not in schema.names:
            raise InvalidLayout(
                f"has no column {name!r}, but the first file has; it has {listed(schema.names)}",
                file.place(),
            )
    check_roles(layout, schema, Source(file.name))
    check_features(layout, schema, wanted, Source(file.name))


def _common_types(layout: Layout, schemas: Mapping[File, pa.Schema]) -> dict[str, pa.DataType]:
    """The type that each column has in every file, where it holds anything.

    Raises:
        InvalidLayout: it is not one.
    """
    types: dict[str, pa.DataType] = {}
    for name in layout.plain:
        types[name] = pa.null()
        for file, schema in schemas.items():
            kind = plain(schema.field(name).type)
            if pa.types.is_null(types[name]):
                types[name], first = kind, file
            elif kind != types[name] and not pa.types.is_null(kind):
                raise InvalidLayout(
                    f"holds {kind}, but in {first.name} it holds {types[name]}",
                    file.place(column=name),
                )
    for role in (layout.id, layout.order):
        if role is not None and pa.types.is_null(types[role]):
            types[role] = pa.string()  # none of it is there, and nothing compares nulls
    for name in () if layout.nested else layout.features:
        kinds = {schema.field(name).type for schema in schemas.values()}
        if name not in types:
            types[name] = kinds.pop() if len(kinds) == 1 else pa.float64()
    return types
