"""Failures as Temporal stores them: short enough to be kept whole, told once, and with the place where they arose."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from temporalio.api.failure.v1 import Failure
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError

from activities.faults import as_failures
from workflows.errors import DefinitionError, Fault, JourneyError, NotFoundError, StoreUnavailable

KEPT_BYTES = 4_096
"""What the server keeps of the last failure of a pending activity (`limit.mutableStateActivityFailureSize.error`)."""
WORKER_BYTES = 1_000
"""What the worker's own calls add to a stack: four of them, in folders of usual length."""


async def failure_of(error: JourneyError, depth: int = 30) -> tuple[ApplicationError, Failure]:
    """Have an activity fail far down, because of something else, and give what it raises and what is stored."""

    def fail(left: int) -> None:
        if left:
            fail(left - 1)
        try:
            raise OSError("the disk is away " * 50)
        except OSError as cause:
            raise error from cause

    @as_failures
    async def work() -> None:
        await asyncio.to_thread(fail, depth)

    with pytest.raises(ApplicationError) as raised:
        await work()
    stored = Failure()
    await pydantic_data_converter.encode_failure(raised.value, stored)
    return raised.value, stored


@pytest.mark.parametrize("text", ["x", "é", "語", '"'])
async def test_a_retried_failure_is_kept_whole(text: str) -> None:
    """However long the message, in whatever script, the server can keep it beside the pending activity."""
    error, stored = await failure_of(StoreUnavailable(text * 5_000, hint=text * 5_000))
    assert stored.ByteSize() < KEPT_BYTES - WORKER_BYTES
    assert not error.non_retryable
    assert error.message.startswith(text * 300)


async def test_a_failure_says_what_to_do_once_and_where_it_arose() -> None:
    """Message and hint are one text, there is no cause that repeats it, and the log still names the line at fault."""
    error, stored = await failure_of(StoreUnavailable("no table users", hint="Mount it."))
    assert (stored.message, stored.HasField("cause")) == ("no table users. Mount it.", False)
    assert error.details == ([{"code": "store-unavailable", "message": "no table users", "hint": "Mount it."}],)
    assert "raise error from cause" in stored.stack_trace
    assert "raise error from cause" in "".join(traceback.format_exception(error))


async def test_a_refusal_keeps_every_fault() -> None:
    """What is never retried ends in the history, which has room for all faults of a document."""
    faults = [Fault(code="unknown", message=f"unknown attribute {n!r}", path="match.all") for n in range(50)]
    error, _ = await failure_of(DefinitionError(faults))
    assert error.non_retryable
    assert len(error.details[0]) == 50
    error, _ = await failure_of(NotFoundError("nobody saved 'x'"))
    assert (error.non_retryable, error.type) == (True, "NotFoundError")
