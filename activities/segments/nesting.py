"""How deep and large a condition is with all segments that it refers to, and whether one goes in a circle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workflows.conditions import Condition, SegmentRef, walk
from workflows.errors import DefinitionError, Fault

LEVELS_LIMIT = 100
"""Most conditions in one another: polars walks an expression on the stack, of which nothing is left at some 500."""
PARTS_LIMIT = 5_000
"""Most nodes: polars takes about 0.2 ms for each."""


@dataclass(frozen=True)
class Extent:
    """How much there is of a condition.

    Attributes:
        levels: How many nodes stand in one another at most.
        parts: How many nodes there are; those of a segment count as often as it is referred to.
    """

    levels: int
    parts: int


class Nesting:
    """Measures conditions, each segment that they refer to once.

    Args:
        follow: Gives for a reference what it is, the same for the same version of a segment, and its condition; null
            for a list of ids. Raises NotFoundError.
    """

    def __init__(self, follow: Callable[[SegmentRef], tuple[str, Condition | None]]) -> None:
        self._follow = follow
        self._known: dict[str, Extent] = {}

    def require(self, condition: Condition) -> None:
        """Refuse a condition that cannot be evaluated, whose references are followed to their ends.

        Raises:
            DefinitionError: It is too deep or too large, or a segment contains itself.
            NotFoundError: A reference leads nowhere.
        """
        self._extent(condition, ())

    def _extent(self, condition: Condition, within: tuple[str, ...]) -> Extent:
        levels = parts = 0
        for path, node in walk(condition):
            level, parts = 1 + sum(isinstance(key, str) for key in path), parts + 1
            if isinstance(node, SegmentRef):
                inner = self._extent_of(node, within)
                level, parts = level + inner.levels, parts + inner.parts
            levels = max(levels, level)
        if levels > LEVELS_LIMIT:
            raise _refused(
                "too-deep",
                f"conditions stand {levels:,} levels deep in one another, those of the segments that are referred to "
                f"included; {LEVELS_LIMIT} are the most",
                "put conditions side by side, or import the users of an inner segment as a list",
            )
        if parts > PARTS_LIMIT:
            raise _refused(
                "too-large",
                f"the condition has {parts:,} parts, those of the segments that it refers to included; "
                f"{PARTS_LIMIT:,} are the most",
                "list values in one `in`, refer to a segment once, or import the users of one as a list",
            )
        return Extent(levels, parts)

    def _extent_of(self, ref: SegmentRef, within: tuple[str, ...]) -> Extent:
        name, condition = self._follow(ref)
        if name in within:
            raise _refused("circle", f"the segment {ref.segment!r} contains itself", "take one of the references out")
        if len(within) >= LEVELS_LIMIT:
            raise _refused(
                "too-deep",
                f"the segment {ref.segment!r} lies more than {LEVELS_LIMIT} segments deep in others",
                "refer to it from higher up, or import its users as a list",
            )
        if name not in self._known:
            self._known[name] = Extent(0, 0) if condition is None else self._extent(condition, (*within, name))
        return self._known[name]


def _refused(code: str, message: str, hint: str) -> DefinitionError:
    return DefinitionError([Fault(code=code, message=message, hint=hint)])
