"""From the store's commit thread to the event loop: answers that come together wake it once."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future

from misstep.store.request import Receipt


class Answers:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._ready: deque[tuple[asyncio.Future[Receipt], Future[Receipt]]] = deque()

    async def of(self, promised: Future[Receipt]) -> Receipt:
        """Wait for the store's answer; raises what it raises."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Receipt] = loop.create_future()

        def done(answered: Future[Receipt]) -> None:
            asleep = not self._ready
            self._ready.append((waiter, answered))
            if asleep:
                loop.call_soon_threadsafe(self._deliver)

        promised.add_done_callback(done)
        return await waiter

    def _deliver(self) -> None:
        while self._ready:
            waiter, answered = self._ready.popleft()
            if waiter.done():
                continue  # its request was cancelled
            error = answered.exception()
            if error is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(answered.result())
