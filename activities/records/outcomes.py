"""Outcomes of a push to one device, as the ledger names them, and what becomes of those that nobody goes on with."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, update

from activities.records.rows import pushes

CLAIMED, UNKNOWN = "claimed", "unknown"
ACCEPTED, REFUSED, TOKEN_DEAD = "accepted", "refused", "token-dead"
NOT_SENT, THROTTLED = "not-sent", "throttled"
GAVE_UP, WITHDRAWN = "gave-up", "withdrawn"

CLAIMABLE = (NOT_SENT, THROTTLED)
"""Outcomes after which a push may be sent: it was proven that the provider did not process it."""

UNSENT = (*CLAIMABLE, GAVE_UP, WITHDRAWN)
"""Outcomes of pushes that reached no provider."""

STOPPED = "nobody went on with it before the answer was recorded"
WENT_ON = "the user went on, or left, before it could be sent"


def abandon(connection: Connection, *where: Any, unsent: str = WITHDRAWN, detail: str = WENT_ON) -> None:
    """Say what is known of pushes that nobody goes on with, within a transaction that is open.

    Those under way are unknown, which a late answer may settle still; those that were not sent never will be.

    Args:
        connection: Of the transaction.
        where: Which pushes.
        unsent: The outcome of those that were not sent.
        detail: Why, for a person.
    """
    for outcomes, outcome, why in (((CLAIMED,), UNKNOWN, STOPPED), (CLAIMABLE, unsent, detail)):
        connection.execute(
            update(pushes).where(*where, pushes.c.outcome.in_(outcomes)).values(outcome=outcome, detail=why)
        )
