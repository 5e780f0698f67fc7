"""Every activity words its failures for Temporal in one way."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import ParamSpec, TypeVar

from workflows.errors import JourneyError, as_application_error

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

FRAMES = 3
"""How many of the innermost calls stay in a failure's stack: enough to find the place, and few enough to be kept by the
server (see `MAX_RETRIED_BYTES`)."""


def as_failures(work: Callable[Arguments, Awaitable[Result]]) -> Callable[Arguments, Awaitable[Result]]:
    """Let an activity raise our errors, and Temporal see whether trying again can help.

    Args:
        work: The activity.

    Returns:
        The activity, raising `ApplicationError` in place of `JourneyError`, with the place where it arose; other
        exceptions pass, and are retried.
    """

    @functools.wraps(work)
    async def worded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return await work(*args, **kwargs)
        except JourneyError as error:
            # A cause would be stored with the same text and a longer stack; the message quotes what the store said.
            raise as_application_error(error).with_traceback(_innermost(error.__traceback__)) from None

    return worded


def _innermost(trace: TracebackType | None) -> TracebackType | None:
    """Cut the calls that lead to the last ones."""
    kept = deque(_calls(trace), maxlen=FRAMES)
    return kept[0] if kept else None


def _calls(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next
