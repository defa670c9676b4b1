"""Copies a model repository from whatever fsspec reads into a folder: fetch.py URL FOLDER.

It only brings the files. What the server then finds it holds against the digests in its manifest,
so that a copy that is not whole is refused.
"""

from __future__ import annotations

import json
import os
import sys

from fsspec.core import url_to_fs


def fetch(url: str, folder: str) -> int:
    """Copies MODEL/VERSION/… below the URL.

    Args:
        url: Of the repository, as `s3://bucket/models`.
        folder: Where it goes.

    Returns:
        How many files there are.
    """
    options = json.loads(os.environ.get("STORAGE_OPTIONS") or "{}")
    store, path = url_to_fs(url, **options)
    files = store.find(path)
    if files:
        store.get(f"{path.rstrip('/')}/", f"{folder.rstrip('/')}/", recursive=True)
    return len(files)


if __name__ == "__main__":
    url, folder = sys.argv[1:]
    try:
        count = fetch(url, folder)
    except Exception as error:  # each store's client has errors of its own kind
        said = " ".join(str(error).split()) or type(error).__name__
        sys.exit(f"{url} cannot be copied: {said}")
    if not count:
        sys.exit(f"{url} is empty or not there: nothing to serve")
    sys.stderr.write(f"{url}: {count} files\n")
