"""Every activity words its failures for Temporal in one way."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from workflows.errors import JourneyError, as_application_error

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def as_failures(work: Callable[Arguments, Awaitable[Result]]) -> Callable[Arguments, Awaitable[Result]]:
    """Let an activity raise our errors, and Temporal see whether trying again can help.

    Args:
        work: The activity.

    Returns:
        The activity, raising `ApplicationError` in place of `JourneyError`; other exceptions pass, and are retried.
    """

    @functools.wraps(work)
    async def worded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return await work(*args, **kwargs)
        except JourneyError as error:
            raise as_application_error(error) from error

    return worded
