"""From the store's commit thread to the event loop: answers that come together wake it once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from misstep.store.request import Receipt

Then = Callable[[Future[Receipt]], None]


class Answers:
    """Belongs to one event loop, in which all methods are called."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Then, Future[Receipt]]] = deque()
        self._awake = False

    def call(self, promised: Future[Receipt], then: Then) -> None:
        """Have `then` called in the loop once the store has answered."""
        loop = asyncio.get_running_loop()

        def done(answered: Future[Receipt]) -> None:
            # In this order: what is put in before the loop looks is seen, what comes after wakes it again.
            self._ready.append((then, answered))
            if not self._awake:
                self._awake = True
                loop.call_soon_threadsafe(self._deliver)

        promised.add_done_callback(done)

    async def of(self, promised: Future[Receipt]) -> Receipt:
        """Wait for the store's answer; raises what it raises."""
        waiter: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

        def settle(answered: Future[Receipt]) -> None:
            if waiter.done():
                return  # its request was cancelled
            error = answered.exception()
            if error is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(answered.result())

        self.call(promised, settle)
        return await waiter

    def _deliver(self) -> None:
        self._awake = False
        while self._ready:
            then, answered = self._ready.popleft()
            then(answered)
