"""Continuing as new under a stream of updates: a gap between them is waited for, and made where none comes."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ApplicationError

ASK_AGAIN = "AskAgainError"
"""Type of the refusal of an update that comes at a bad moment: the same is taken a moment later."""

GROWTH = 1.5
"""By how much a history may grow while a gap is waited for, before updates are asked to come again."""


class Turnover:
    """Finds the moment at which a workflow may continue as new without losing an update that is under way.

    The server suggests to continue when a tenth of what a history may hold is used, so there is room to wait for a gap.
    """

    def __init__(self) -> None:
        """Start with nothing to wait for."""
        self._began: tuple[int, int] | None = None

    async def gap(self) -> None:
        """Return when no update is under way. For the workflow's own function."""
        info = workflow.info()
        self._began = info.get_current_history_length(), info.get_current_history_size()
        await workflow.wait_condition(workflow.all_handlers_finished)
        self._began = None

    def refuse(self) -> None:
        """Refuse a new update while a gap is overdue. For validators: what they refuse leaves nothing in the history.

        Raises:
            ApplicationError: Of the type `ASK_AGAIN`: whoever asked asks again.
        """
        if self._began is None:
            return
        length, size = self._began
        info = workflow.info()
        if info.get_current_history_length() >= length * GROWTH or info.get_current_history_size() >= size * GROWTH:
            raise ApplicationError(
                "the workflow's history is full, and it continues as new when the updates under way are answered: ask "
                "again in a moment",
                type=ASK_AGAIN,
                non_retryable=True,
            )
