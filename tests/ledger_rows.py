"""Visits and pushes as the ledger's own tests write them down."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from activities.records.outcomes import CLAIMED
from workflows.contracts import Visit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def visit(passage: str, **changed: Any) -> Visit:
    given = {"journey": "j", "version": 1, "digest": "d", "element": "promo", "user_id": "u1", "now": NOW, "step": 1}
    return Visit(**{**given, "passage": passage, **changed})


def push_row(passage: str, user: str, device: str) -> dict[str, Any]:
    row = {"passage": passage, "step": 1, "device_id": device, "journey": "j", "version": 1, "element": "promo"}
    row |= {"user_id": user, "at": "2026-03-01T12:00:00.000000Z", "provider": "apns", "outcome": CLAIMED}
    return {**row, "title": "Hi", "message": "{}"}
