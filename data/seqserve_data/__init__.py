"""Reads labelled and unlabelled sequences from files, checks them and splits them.

`read` gives a `Dataset` of any file or bundled name, and `stream` reads what is too large for
memory in blocks; what they are used for is left to the other rooms. Importing this package loads
numpy alone: a reader's library is loaded by its reader.
"""

from seqserve_data.bundled.sets import bundled_test
from seqserve_data.checks import check_labels, check_trainable
from seqserve_data.columns import Columns, split_names
from seqserve_data.dataset import Dataset
from seqserve_data.errors import DataError
from seqserve_data.reading import read
from seqserve_data.splits import stratified_split

__all__ = [
    "Columns",
    "DataError",
    "Dataset",
    "bundled_test",
    "check_labels",
    "check_trainable",
    "read",
    "split_names",
    "stratified_split",
]
