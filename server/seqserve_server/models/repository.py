"""The versions of a model repository on this server, and the life of each.

An operator's calls are obeyed at once. A poll looks for what has changed since, and touches only
the models whose files have: what an operator did to others stands, and a version that was refused
is not tried again before it is another.

Every change happens on the event loop and leaves a consistent table behind, so that `find`
needs no lock on any thread; what takes time (reading, opening, proving) happens on a thread of its
own. A version that leaves the table is freed when the last work that runs on it is done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from errno import ENOENT
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from seqserve import artifact
from seqserve.errors import InvalidArtifact
from seqserve.golden import Proof
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve_server.errors import CannotLoad, CannotStart, Draining, ModelLoading, ModelNotFound
from seqserve_server.models.loading import NotTriedError
from seqserve_server.models.served_model import ServedModel
from seqserve_server.models.version_policy import VersionPolicy

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Load = Callable[[Path], tuple[ServedModel, Proof]]
LoadAgain = Callable[[Path, str], tuple[ServedModel, Proof]]
OnChange = Callable[[], None]
Files = tuple[tuple[str, int, int, int, int], ...]
"""What tells a version's files from others without reading them: of the folder and of each file
the name, the inode, the size, and the times of the last changes."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between attempts to prove a version again whose runs failed."""


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
    ailing: bool = False
    """Whether it is READY, but its runs failed and it is yet to be proved again."""

    def __str__(self) -> str:
        """For messages: `speakers version 3`."""
        return f"{self.name} version {self.version}"


class Repository:
    """The versions of a model repository on this server.

    Args:
        root: The repository's folder.
        policy: Which versions are offered.
        load: Reads and proves the version in a folder.
        on_change: Called after every change of a version's state.
        on_look: Told after every look at the folder whether it failed.
        load_again: As `load`, for a version that was proved but whose runs fail in this process;
            refuses one of another digest than it is given.
        on_rest: Called on the thread of `load` when there is no more to load for now.
    """

    def __init__(
        self,
        root: Path,
        policy: VersionPolicy,
        load: Load,
        on_change: OnChange,
        *,
        on_look: Callable[[bool], None] = lambda failed: None,
        load_again: LoadAgain | None = None,
        on_rest: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = root
        self._policy = policy
        self._load = load
        self._on_change = on_change
        self._on_look = on_look
        self._load_again = load_again or (lambda folder, digest: load(folder))
        self._on_rest = on_rest
        self._seen: dict[str, dict[int, Files]] = {}
        self._tried: dict[tuple[str, int], Files | None] = {}
        self._not_tried: set[str] = set()
        # Why what has taken the place of a version is not served; the version itself is.
        self._refused_in_place: dict[tuple[str, int], str] = {}
        self._unreadable = False
        self._entries: dict[str, dict[int, Entry]] = {}
        self._newest: dict[str, ServedModel] = {}
        self._read_once = False
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._healing: set[tuple[str, int]] = set()

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

    def knows(self, name: str) -> bool:
        """Whether it has a version of the model, served or not. Any thread may ask."""
        return name in self._entries

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

    @property
    def serves(self) -> bool:
        """Whether it has been read once and something is served: what is loaded now has time."""
        return self._read_once and bool(self._newest)

    async def reload(self) -> None:
        """Looks at the folder and brings what is served in line with the policy.

        A version that is to go is served until those that are to come are ready. Where only the
        newest is wanted and it is refused, the newest sound one is served instead.
        """
        await self._to_its_end(self._reload())

    async def poll(self, interval_s: float) -> None:
        """Does so again and again for models whose files have changed; ends when cancelled.

        What is served is kept while the folder cannot be read, or has lost every model at once, as
        the mount point of a volume that is away.
        """
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self._to_its_end(self._look())
            except Exception:
                _log.exception("what has changed in the repository could not be served")

    async def heal(self, model: ServedModel) -> None:
        """Takes a version whose runs fail out of readiness until it is proved again.

        It is read and opened anew: its session may be what fails. Calls still reach it meanwhile.
        """
        key = (model.name, model.version)
        entry = self._entries.get(model.name, {}).get(model.version)
        if entry is None or entry.model is not model or key in self._healing:
            return
        self._healing.add(key)
        _log.error("%s: its runs fail; it is not ready until its golden set holds again", model)
        pause_s = FIRST_PAUSE_S
        try:
            while not await self._to_its_end(self._heal(model)):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            self._healing.discard(key)

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
        # Not behind what is being read and proved, which may take its time: this is how operators
        # get rid of what does harm.
        model = self.find(name, version)
        return self._retire(self._entries[name][model.version])

    async def close(self) -> None:
        """Lets go of every model; what is being loaded is given up when it is done."""
        changes = list(self._changes)
        for change in changes:
            change.cancel()
        await asyncio.gather(*changes, return_exceptions=True)
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
            try:
                self._seen = await self._look_at_all()
            except OSError as error:
                if not self._read_once:
                    raise
                raise CannotLoad(f"the repository cannot be read: {error.strerror}") from error
            self._tried.clear()  # whoever asks for it wants all to be tried
            self._not_tried.clear()
            names = self._seen.keys() | self._policy.named.keys() | self._entries.keys()
            await self._bring_in_line(names)
            self._read_once = True

    async def _look(self) -> None:
        async with self._changing:
            try:
                seen = await self._look_at_all()
                if self._newest and not seen:
                    raise FileNotFoundError(ENOENT, "all models are gone")
            except OSError as error:
                if not self._unreadable:
                    _log.error(
                        "%s cannot be read (%s); what is served is served on, and it is looked "
                        "for again",
                        self._root,
                        error.strerror,
                    )
                self._unreadable = True
                return
            if self._unreadable:
                _log.info("%s can be read again", self._root)
            self._unreadable = False
            names = seen.keys() | self._seen.keys()
            changed = {name for name in names if seen.get(name) != self._seen.get(name)}
            changed |= self._not_tried
            self._not_tried.clear()
            self._seen = seen
            if changed:
                await self._bring_in_line(changed)

    async def _look_at_all(self) -> dict[str, dict[int, Files]]:
        try:
            seen = await self._in_thread(self._published)
        except OSError:
            self._on_look(True)
            raise
        self._on_look(False)
        return seen

    async def _bring_in_line(self, names: Collection[str]) -> None:
        """Serves of these models what the policy wants of what was seen."""
        tried: set[tuple[str, int]] = set()
        wanted: set[tuple[str, int]] = set()
        for name in sorted(names):
            choice = self._policy.choice(name)
            for version in choice.candidates([*self._seen.get(name, {})]):
                tried.add((name, version))
                sound = await self._ensure(name, version)
                if sound:
                    wanted.add((name, version))
                if sound and choice.one_is_enough:
                    break
        for entry in self.entries():
            if entry.name not in names:
                continue
            key = (entry.name, entry.version)
            if entry.state is State.READY and key not in wanted:
                self._retire(entry)
            if key not in tried and entry.version not in self._seen.get(entry.name, {}):
                self._forget(entry)
        await self._in_thread(self._on_rest)

    async def _heal(self, model: ServedModel) -> bool:
        """Whether there is nothing to heal any more."""
        async with self._changing:
            entry = self._entries.get(model.name, {}).get(model.version)
            if entry is None or entry.model is not model:
                return True
            if not entry.ailing:
                message = "its runs fail; it is being proved again"
                self._enter(replace(entry, ailing=True, message=message))
            try:
                healed = await self._in_thread(lambda: self._healed(entry))
            except NotTriedError as error:
                _log.warning("%s could not be proved again: %s", entry, error)
                return False
            now = self._entries.get(model.name, {}).get(model.version)
            if now is None or now.model is not model:  # unloaded meanwhile
                return True
            if healed.state is State.READY:
                self._enter(healed)
            return healed.state is State.READY

    async def _load_one(self, name: str, version: int) -> Entry:
        async with self._changing:
            published = (await self._look_at_all()).get(name, {})
            version = version or max(published, default=0)
            if version not in published:
                raise ModelNotFound(
                    f"the repository has no {name} version {version}; it has {[*published]}"
                    if published
                    else f"the repository has no model {name}"
                )
            self._tried.pop((name, version), None)
            sound = await self._ensure(name, version)
            await self._in_thread(self._on_rest)
            if not sound:
                raise CannotLoad(self._entries[name][version].message)
            if why := self._refused_in_place.get((name, version)):
                raise CannotLoad(f"{why}; what was served before stays")
            return self._entries[name][version]

    async def _ensure(self, name: str, version: int) -> bool:
        """Whether the version is served, after loading it where it was not.

        One that is served stays so until what has taken its place in the folder is proved.
        """
        before = self._entries.get(name, {}).get(version)
        served = before is not None and before.state is State.READY
        refused = before is not None and before.state is State.FAILED
        files = self._seen.get(name, {}).get(version)
        key = (name, version)
        if (served or (refused and files)) and self._tried.get(key, ()) == files:
            return served
        self._tried[key] = files
        self._refused_in_place.pop(key, None)
        if before and served and await self._in_thread(partial(self._is_unchanged, before)):
            return True
        if not served:
            self._enter(Entry(name, version, State.LOADING, "is being read and proved"))
        try:
            entry = await self._in_thread(lambda: self._loaded(name, version, self._load))
        except NotTriedError as error:
            _log.warning("%s version %d could not be tried: %s", name, version, error)
            del self._tried[key]
            self._not_tried.add(name)
            message = str(error).replace(f"{self._root}/", "")
            entry = Entry(name, version, State.FAILED, f"could not be tried yet: {message}")
        if served and self._entries.get(name, {}).get(version) is not before:
            return False  # an operator has unloaded it meanwhile
        if served and entry.state is not State.READY:
            self._refused_in_place[key] = entry.message
            return True
        self._enter(entry)
        return entry.state is State.READY

    def _is_unchanged(self, entry: Entry) -> bool:
        """Whether the folder still has what is served; also where it has nothing to serve."""
        folder = artifact.version_path(self._root, entry.name, entry.version)
        with suppress(InvalidArtifact):
            return artifact.digest(folder) == entry.digest
        return True

    def _healed(self, entry: Entry) -> Entry:
        """What has taken the version's place in the folder is as strange as any other."""
        load = self._load
        if self._is_unchanged(entry):
            load = partial(self._load_again_as, entry.digest)
        return self._loaded(entry.name, entry.version, load)

    def _load_again_as(self, digest: str, folder: Path) -> tuple[ServedModel, Proof]:
        return self._load_again(folder, digest)

    def _loaded(self, name: str, version: int, load: Load) -> Entry:
        """Runs on the loading thread."""
        try:
            folder = artifact.version_path(self._root, name, version)
            model, proof = load(folder)
        except (CannotStart, NotTriedError):
            raise
        except Draining:
            return Entry(name, version, State.FAILED, "the server is stopping")
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

    def _retire(self, entry: Entry) -> Entry:
        unloaded = Entry(
            entry.name,
            entry.version,
            State.UNLOADED,
            "was taken out of service",
            entry.digest,
            entry.manifest,
        )
        self._enter(unloaded)
        _log.info("unloaded %s", entry)
        return unloaded

    def _enter(self, entry: Entry) -> None:
        self._entries.setdefault(entry.name, {})[entry.version] = entry
        self._choose_newest(entry.name)
        self._on_change()

    def _forget(self, entry: Entry) -> None:
        """The repository no longer has it, and it is not served."""
        del self._entries[entry.name][entry.version]
        if not self._entries[entry.name]:
            del self._entries[entry.name]
        self._on_change()

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

    def _published(self) -> dict[str, dict[int, Files]]:
        return {name: self._published_of(name) for name in artifact.models(self._root)}

    def _published_of(self, name: str) -> dict[int, Files]:
        try:
            versions = artifact.versions(self._root, name)
        except OSError as error:  # the others are read all the same
            _log.warning("%s cannot be read (%s)", self._root / name, error.strerror)
            return self._seen.get(name, {})
        return {
            version: _files(artifact.version_path(self._root, name, version))
            for version in versions
        }

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """On a daemon, for which the process does not wait when it ends."""
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, name="seqserve-load", daemon=True).start()
        return await asyncio.wrap_future(future)


def _files(folder: Path) -> Files:
    try:
        with os.scandir(folder) as listing:
            files = [(each.name, each.stat(follow_symlinks=False)) for each in listing]
        status = [(".", folder.stat()), *files]
    except OSError:  # it is going at this moment, or not for us: loading it will tell
        return ()
    return tuple(
        (name, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns)
        for name, each in sorted(status, key=itemgetter(0))
    )


def _reason(entry: Entry) -> str:
    return f"was refused: {entry.message}" if entry.state is State.FAILED else entry.message


def _describe(model: ServedModel, proof: Proof) -> str:
    labels = ", ".join(model.labels[:3]) + (", …" if len(model.labels) > 3 else "")
    return (
        f"{model}: {len(model.labels)} labels ({labels}), {model.features} features, "
        f"up to {model.max_steps} steps; {model.execution_provider}: {proof.sequences} golden "
        f"sequences held in {proof.cases} cases, at most {proof.max_difference:.1e} from torch"
    )
