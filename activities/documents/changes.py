"""What changed between two versions of a journey, place by place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from workflows.conditions import render_path
from workflows.documents import JourneyDocument, definition_of

ORDERED = "branches"
"""The mapping whose order has a meaning: branches of a split by value are tried in order."""

CONDITIONS = ("audience", "match", "exit_when", "in_segment", "not_in_segment", "devices", "where")
"""Keys whose value is a condition, which is shown whole."""
NAMED = (("entries",), ("elements",), ("goals",), ("branches",))
"""Keys under which authors give the names."""


class Change(BaseModel):
    """One place that differs."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    path: str
    """Where, as faults write it: `elements.promo.message.title`."""
    before: Any = None
    """What the first version says there; null where it says nothing."""
    after: Any = None
    """What the second version says there; null where it says nothing."""


def changes_between(before: JourneyDocument, after: JourneyDocument) -> list[Change]:
    """Compare two versions of a journey, or two journeys.

    Args:
        before: The first.
        after: The second.

    Returns:
        The places that differ, in the order of the documents: an entry or element that only one has is one change, and
        so is a condition.
    """
    return list(_differences(definition_of(before), definition_of(after), ()))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], at: tuple[str, ...]) -> Iterator[Change]:
    for key in dict.fromkeys([*before, *after]):
        one, other, place = before.get(key), after.get(key), (*at, key)
        if isinstance(one, dict) and isinstance(other, dict) and not _is_condition(place):
            shared = [name for name in one if name in other]
            yield from _differences(one, other, place)
            if key == ORDERED and shared != [name for name in other if name in one]:
                yield Change(path=render_path(place), before=list(one), after=list(other))
        elif one != other:
            yield Change(path=render_path(place), before=one, after=other)


def _is_condition(place: tuple[str, ...]) -> bool:
    """Tell whether a condition stands at a place: an element, entry, goal or branch may have the same name."""
    return place[-1] in CONDITIONS and place[-2:-1] not in NAMED
