"""Look-ups that share a scan: whoever asks while one batch is worked out is answered by the next.

Temporal runs one workflow per user, and each asks about its own user alone; a scan of a table for each of them would
cost as much as one for all. Each answer is as new as its question, and the cost is divided among all who ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

BATCH_LIMIT = 2_000
"""Most questions that share one scan."""

Topic = TypeVar("Topic", bound=Hashable)
About = TypeVar("About", bound=Hashable)
Answer = TypeVar("Answer")


class Lookups(Generic[Topic, About, Answer]):
    """Batches of questions, each batch about one topic.

    Args:
        answer: Answers all questions of a batch. It runs in a thread, one batch at a time, and may block.
    """

    def __init__(self, answer: Callable[[Topic, Sequence[About]], Mapping[About, Answer]]) -> None:
        self._answer = answer
        self._waiting: dict[Topic, dict[About, asyncio.Future[Answer]]] = {}
        self._running: asyncio.Task[None] | None = None

    async def ask(self, topic: Topic, about: About) -> Answer:
        """Ask something; equal questions that wait are one.

        Args:
            topic: What is asked.
            about: Of whom.

        Returns:
            The answer, begun after the question was put.

        Raises:
            JourneyError: As answering raises it, for all of the batch.
        """
        asking = self._waiting.setdefault(topic, {})
        future = asking.get(about)
        if future is None:
            future = asking[about] = asyncio.get_running_loop().create_future()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._serve())
        return await asyncio.shield(future)

    async def _serve(self) -> None:
        while self._waiting:
            topic = next(iter(self._waiting))
            asking = self._waiting.pop(topic)
            batch = dict(list(asking.items())[:BATCH_LIMIT])
            if later := {about: future for about, future in asking.items() if about not in batch}:
                self._waiting[topic] = later
            try:
                found = await asyncio.to_thread(self._answer, topic, list(batch))
            except BaseException as error:
                for future in batch.values():
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # whoever asked may have been cancelled meanwhile
                if not isinstance(error, Exception):
                    raise
                continue
            for about, future in batch.items():
                if not future.done():
                    future.set_result(found[about])
