"""The versions of a model repository on this server, and the life of each.

Every change happens on the event loop and leaves a consistent table behind, so that `find`
needs no lock on any thread; what takes time (reading, opening, proving) happens on a thread of its
own. A version that leaves the table is freed when the last work that runs on it is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from seqserve import artifact
from seqserve.errors import InvalidArtifact
from seqserve.golden import Proof
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve_server.errors import CannotLoad, CannotStart, ModelLoading, ModelNotFound
from seqserve_server.served_model import ServedModel
from seqserve_server.version_policy import VersionPolicy

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Load = Callable[[Path], tuple[ServedModel, Proof]]
OnChange = Callable[[], Awaitable[None]]


class State(Enum):
    """Where a version is in its life."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADED = "unloaded"


@dataclass(frozen=True)
class Entry:
    """A version that the server knows."""

    name: str
    """The model's name."""
    version: int
    """A positive integer."""
    state: State
    """Where it is in its life."""
    message: str = ""
    """Why it is not READY."""
    digest: str = ""
    """Of its manifest; empty where it could not be read."""
    manifest: ModelManifest | None = None
    """As published; None where it could not be read."""
    model: ServedModel | None = None
    """Where READY."""

    def __str__(self) -> str:
        """For messages: `speakers version 3`."""
        return f"{self.name} version {self.version}"


class Repository:
    """The versions of a model repository on this server.

    Args:
        root: The repository's folder.
        policy: Which versions are offered.
        load: Reads and proves the version in a folder.
        on_change: Awaited after every change of a version's state.
    """

    def __init__(self, root: Path, policy: VersionPolicy, load: Load, on_change: OnChange) -> None:
        self._root = root
        self._policy = policy
        self._load = load
        self._on_change = on_change
        self._entries: dict[str, dict[int, Entry]] = {}
        self._newest: dict[str, ServedModel] = {}
        self._read_once = False
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seqserve-load")

    def find(self, name: str, version: int) -> ServedModel:
        """The served version; the newest where `version` is 0.

        Raises:
            ModelNotFound: it is not served.
            ModelLoading: it will be.
        """
        if not version:
            model = self._newest.get(name)
        else:
            entry = self._entries.get(name, {}).get(version)
            model = entry.model if entry else None
        if model is None:
            raise self._why_not(name, version)
        return model

    def entry(self, name: str, version: int) -> Entry:
        """What is known of a version; of the newest that is served where `version` is 0.

        Raises:
            ModelNotFound: nothing is.
            ModelLoading: the newest was asked for, and none is ready yet.
        """
        if not version:
            version = self.find(name, 0).version
        entry = self._entries.get(name, {}).get(version)
        if entry is None:
            raise self._why_not(name, version)
        return entry

    def entries(self, name: str = "") -> list[Entry]:
        """Every version known, by name and then version; of one model where it is named."""
        names = [name] if name else sorted(self._entries)
        return [entry for name in names for _, entry in sorted(self._entries.get(name, {}).items())]

    async def reload(self) -> None:
        """Looks at the folder and brings what is served in line with the policy.

        A version that is to go is served until those that are to come are ready. Where only the
        newest is wanted and it is refused, the newest sound one is served instead.
        """
        await self._to_its_end(self._reload())

    async def load(self, name: str, version: int) -> Entry:
        """Serves a version whatever the policy; the newest published where `version` is 0.

        Raises:
            ModelNotFound: the repository does not have it.
            CannotLoad: it was refused.
        """
        return await self._to_its_end(self._load_one(name, version))

    async def unload(self, name: str, version: int) -> Entry:
        """Takes a version out of service; the newest served where `version` is 0.

        Raises:
            ModelNotFound: it is not served.
        """
        return await self._to_its_end(self._unload(name, version))

    async def close(self) -> None:
        """Lets go of every model; what is being loaded is given up when it is done."""
        changes = list(self._changes)
        for change in changes:
            change.cancel()
        await asyncio.gather(*changes, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._entries.clear()
        self._newest.clear()

    async def _to_its_end(self, change: Coroutine[Any, Any, _T]) -> _T:
        """A change is made whole, even where the operator who asked for it has gone."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _reload(self) -> None:
        async with self._changing:
            published = await self._in_thread(self._published)
            tried: set[tuple[str, int]] = set()
            wanted: set[tuple[str, int]] = set()
            for name in sorted(published.keys() | self._policy.named.keys()):
                choice = self._policy.choice(name)
                for version in choice.candidates(published.get(name, [])):
                    tried.add((name, version))
                    sound = await self._ensure(name, version)
                    if sound:
                        wanted.add((name, version))
                    if sound and choice.one_is_enough:
                        break
            for entry in self.entries():
                key = (entry.name, entry.version)
                if entry.state is State.READY and key not in wanted:
                    await self._retire(entry)
                if key not in tried and entry.version not in published.get(entry.name, []):
                    await self._forget(entry)
            self._read_once = True

    async def _load_one(self, name: str, version: int) -> Entry:
        async with self._changing:
            published = (await self._in_thread(self._published)).get(name, [])
            version = version or max(published, default=0)
            if version not in published:
                raise ModelNotFound(
                    f"the repository has no {name} version {version}; it has {published}"
                    if published
                    else f"the repository has no model {name}"
                )
            if not await self._ensure(name, version):
                raise CannotLoad(self._entries[name][version].message)
            return self._entries[name][version]

    async def _unload(self, name: str, version: int) -> Entry:
        async with self._changing:
            model = self.find(name, version)
            return await self._retire(self._entries[name][model.version])

    async def _ensure(self, name: str, version: int) -> bool:
        """Whether the version is served, after loading it where it was not."""
        entry = self._entries.get(name, {}).get(version)
        if entry and entry.state is State.READY:
            return True
        await self._enter(Entry(name, version, State.LOADING, "is being read and proved"))
        entry = await self._in_thread(lambda: self._loaded(name, version))
        await self._enter(entry)
        return entry.state is State.READY

    def _loaded(self, name: str, version: int) -> Entry:
        """Runs on the loading thread."""
        try:
            folder = artifact.version_path(self._root, name, version)
            model, proof = self._load(folder)
        except CannotStart:
            raise
        except InvalidArtifact as error:
            _log.error("refused %s version %d: %s", name, version, error)
            message = str(error).replace(f"{self._root}/", "")
            return Entry(name, version, State.FAILED, message)
        except Exception as error:
            _log.exception("refused %s version %d for an unforeseen reason", name, version)
            return Entry(name, version, State.FAILED, f"{type(error).__name__}, see the log")
        _log.info("%s", _describe(model, proof))
        return Entry(
            name, version, State.READY, "", model.digest, manifest=model.manifest, model=model
        )

    async def _retire(self, entry: Entry) -> Entry:
        unloaded = Entry(
            entry.name,
            entry.version,
            State.UNLOADED,
            "was taken out of service",
            entry.digest,
            entry.manifest,
        )
        await self._enter(unloaded)
        _log.info("unloaded %s", entry)
        return unloaded

    async def _enter(self, entry: Entry) -> None:
        self._entries.setdefault(entry.name, {})[entry.version] = entry
        self._choose_newest(entry.name)
        await self._on_change()

    async def _forget(self, entry: Entry) -> None:
        """The repository no longer has it, and it is not served."""
        del self._entries[entry.name][entry.version]
        if not self._entries[entry.name]:
            del self._entries[entry.name]
        await self._on_change()

    def _choose_newest(self, name: str) -> None:
        ready = [entry.model for entry in self._entries[name].values() if entry.model]
        if ready:
            self._newest[name] = max(ready, key=lambda model: model.version)
        else:
            self._newest.pop(name, None)

    def _why_not(self, name: str, version: int) -> ModelNotFound | ModelLoading:
        known = dict(self._entries.get(name, {}))  # as it is now
        asked = f"{name} version {version}" if version else f"model {name}"
        candidates = [known[version]] if version in known else [] if version else [*known.values()]
        # Before the first look at the folder is over, nobody can say that it lacks something.
        if not self._read_once or any(entry.state is State.LOADING for entry in candidates):
            return ModelLoading(f"{asked} is being loaded; try again soon")
        if version in known:
            return ModelNotFound(f"{asked} is not served: it {_reason(known[version])}")
        served = [f"{e.name} {e.version}" for e in self.entries() if e.state is State.READY]
        return ModelNotFound(f"{asked} is not served; served are: {', '.join(served) or 'none'}")

    def _published(self) -> dict[str, list[int]]:
        names = artifact.models(self._root)
        return {name: artifact.versions(self._root, name) for name in names}

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _reason(entry: Entry) -> str:
    return f"was refused: {entry.message}" if entry.state is State.FAILED else entry.message


def _describe(model: ServedModel, proof: Proof) -> str:
    labels = ", ".join(model.labels[:3]) + (", …" if len(model.labels) > 3 else "")
    return (
        f"{model}: {len(model.labels)} labels ({labels}), {model.features} features, "
        f"up to {model.max_steps} steps; {model.execution_provider}: {proof.sequences} golden "
        f"sequences held in {proof.cases} cases, at most {proof.max_difference:.1e} from torch"
    )
