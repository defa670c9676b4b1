"""Channels to a name, renewed as they age: so replicas that have come get calls.

gRPC looks a name up again when a connection fails, and only then: while all are well, it never
hears of another address. Servers that end connections of some age are its remedy, and not every
one does. So the next channel is opened beside the one there is and takes its place once it is
connected; the calls under way end where they began. Where the name cannot be looked up or nobody
answers there, the one there was goes on.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, cast

import grpc
import grpc.aio

AGE_S = 60.0
"""Of a channel that the next call renews; the age of one is up to a fifth more or less, lest all
clients come at once."""

Metadata = tuple[tuple[str, str | bytes], ...]


def renewed(open_channel: Callable[[], grpc.Channel]) -> grpc.Channel:
    """A channel of unary calls that is opened in this way, again and again."""
    return cast(grpc.Channel, _Renewed(open_channel))


def renewed_async(open_channel: Callable[[], grpc.aio.Channel]) -> grpc.aio.Channel:
    """The same for the event loop that runs now."""
    return cast(grpc.aio.Channel, _AsyncRenewed(open_channel))


def _next_renewal() -> float:
    return time.monotonic() + AGE_S * random.uniform(0.8, 1.2)  # noqa: S311  # nosec B311


class _Counted:
    """A channel, and how many calls are under way in it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.methods: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._calls = 0
        self._retired = False

    @property
    def busy(self) -> bool:
        """Whether calls are under way in it."""
        return self._calls > 0

    def enter(self) -> bool:
        """Counts a call that begins; False where it is to go elsewhere."""
        with self._lock:
            self._calls += not self._retired
            return not self._retired

    def leave(self) -> None:
        """Counts a call that has ended."""
        with self._lock:
            self._calls -= 1
            last = self._retired and not self._calls
        if last:
            self.channel.close()

    def retire(self) -> None:
        """Closes the channel as soon as no call is under way."""
        with self._lock:
            self._retired = True
            idle = not self._calls
        if idle:
            self.channel.close()


class _Renewed:
    def __init__(self, open_channel: Callable[[], grpc.Channel]) -> None:
        self._open = open_channel
        self._lock = threading.Lock()
        self._current = _Counted(open_channel())
        self._coming: grpc.Channel | None = None
        self._renew_at = _next_renewal()
        self._closed = False
        self._ending: list[_Counted] = []

    def unary_unary(self, path: str, **options: Any) -> _Method:  # noqa: ANN401
        return _Method(self, path, options)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            coming, self._coming = self._coming, None
            ending, self._ending = self._ending, []
        if coming is not None:
            coming.close()
        for each in (*ending, self._current):
            each.channel.close()

    def enter(self) -> _Counted:
        """The channel of a call that begins now, which is to leave it."""
        if time.monotonic() >= self._renew_at:
            self._renew()
        while not (current := self._current).enter():
            pass  # it has just been replaced
        return current

    def _renew(self) -> None:
        with self._lock:
            if self._closed or self._coming is not None:
                return
            self._coming = coming = self._open()

        # gRPC's thread holds `told` until somebody answers: a client that is forgotten meanwhile is
        # to be collected, and its channel with it, which ends the thread.
        this, channel = weakref.ref(self), weakref.ref(coming)

        def told(state: grpc.ChannelConnectivity) -> None:
            renewed, ready = this(), channel()
            if state is grpc.ChannelConnectivity.READY and renewed is not None and ready:
                ready.unsubscribe(told)
                renewed._replace(ready)

        coming.subscribe(told, try_to_connect=True)

    def _replace(self, coming: grpc.Channel) -> None:
        with self._lock:
            if self._coming is not coming:  # closed meanwhile
                return
            old, self._current, self._coming = self._current, _Counted(coming), None
            self._ending = [*(each for each in self._ending if each.busy), old]
            self._renew_at = _next_renewal()
        old.retire()


class _Method:
    """A method of whichever channel there is."""

    def __init__(self, renewed: _Renewed, path: str, options: dict[str, Any]) -> None:
        self._renewed = renewed
        self._path = path
        self._options = options

    def __call__(
        self, request: object, timeout: float | None = None, metadata: Metadata | None = None
    ) -> Any:  # noqa: ANN401
        counted = self._renewed.enter()
        try:
            return self._of(counted)(request, timeout=timeout, metadata=metadata)
        finally:
            counted.leave()

    def future(
        self, request: object, timeout: float | None = None, metadata: Metadata | None = None
    ) -> Any:  # noqa: ANN401
        counted = self._renewed.enter()
        try:
            call = self._of(counted).future(request, timeout=timeout, metadata=metadata)
        except BaseException:
            counted.leave()
            raise
        call.add_done_callback(lambda _: counted.leave())
        return call

    def _of(self, counted: _Counted) -> Any:  # noqa: ANN401
        method = counted.methods.get(self._path)
        if method is None:
            method = counted.channel.unary_unary(self._path, **self._options)
            counted.methods[self._path] = method
        return method


class _AsyncRenewed:
    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open = open_channel
        self._current = _AsyncCounted(open_channel())
        self._ending: set[_AsyncCounted] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._renew_at = _next_renewal()
        self._closed = False

    def unary_unary(self, path: str, **options: Any) -> Callable[..., Any]:  # noqa: ANN401
        def call(request: object, **named: Any) -> Any:  # noqa: ANN401
            if time.monotonic() >= self._renew_at and not self._closed:
                self._renew_at = math.inf  # until that is done
                task = asyncio.get_running_loop().create_task(self._renew())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            return self._current.call(path, options, request, named)

        return call

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in (*self._ending, self._current):
            await each.channel.close(grace)

    async def _renew(self) -> None:
        coming = self._open()
        try:
            await coming.channel_ready()
        except BaseException:
            await coming.close(None)
            raise
        old, self._current = self._current, _AsyncCounted(coming)
        self._renew_at = _next_renewal()
        self._ending.add(old)
        await old.idle()
        await old.channel.close(None)
        self._ending.discard(old)


class _AsyncCounted:
    """A channel, and how many calls are under way in it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._methods: dict[str, Any] = {}
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def call(self, path: str, options: dict[str, Any], request: object, named: Any) -> Any:  # noqa: ANN401
        """Begins a call of a method."""
        if path not in self._methods:
            self._methods[path] = self.channel.unary_unary(path, **options)
        call = self._methods[path](request, **named)
        self._calls += 1
        self._idle.clear()
        call.add_done_callback(self._leave)
        return call

    async def idle(self) -> None:
        """Until no call is under way."""
        await self._idle.wait()

    def _leave(self, _: object) -> None:
        self._calls -= 1
        if not self._calls:
            self._idle.set()
