from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from seqserve_data import Columns, DataError
from seqserve_data.stream import Input, Wanted


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """What is said of an input that is refused when it is opened, the folder left out."""

    def refusal(
        source: Path | Sequence[Path],
        columns: Columns | None = None,
        wanted: Wanted | None = None,
        **options: Any,  # noqa: ANN401
    ) -> str:
        with pytest.raises(DataError) as caught:
            Input.open(source, columns or Columns(), wanted=wanted or Wanted(3), **options)
        return str(caught.value).replace(f"{tmp_path}/", "").replace(str(tmp_path), "folder")

    return refusal
