"""Calls a seqserve server from Python: whole batches, live sequences, what models there are.

`Client` is for threads, `AsyncClient` for an event loop; `errors` draws what they raise;
`testing` has a server for tests. The `seqserve` command begins in `cli`. Training, conversion
and serving are left to the other rooms.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqserve_client.api import *  # noqa: F403
else:
    # Every subcommand passes through this package, and `train` and `serve` need no client.
    def __getattr__(name: str) -> object:
        if name == "__all__" or name[0].isupper():  # submodules are looked for here first, too
            api = import_module("seqserve_client.api")
            if name == "__all__" or name in api.__all__:
                return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return [*globals(), *__getattr__("__all__")]
