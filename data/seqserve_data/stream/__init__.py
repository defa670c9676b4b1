"""Inputs of any size, read in blocks of sequences with bounded memory.

files       which files an input is: paths, globs, directories, object stores
forms       who reads a form; `parquet`, `csv`, `jsonl`, `ipc` and `table` give `records`
layout      which columns hold what; by it records become `rows`, each column in its role
lists       rows that are a sequence each, and `steps`, rows that are a step each, become runs
values      numbers as float32, and what is wrong with those that are not taken; `order` sorts
recurring   an id that comes again
cutting     runs cut into blocks by content alone
input       all of it: `Input`
"""

from seqserve_data.stream.block import Block, Position, Wanted
from seqserve_data.stream.cutting import Cut
from seqserve_data.stream.input import Input

__all__ = ["Block", "Cut", "Input", "Position", "Wanted"]
