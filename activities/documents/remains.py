"""What remains of a document without its faults, so that one typo hides no other, and no branch that leads nowhere.

Of a condition only the smallest node that is wrong is reduced, to what can be read of it: its name, and the operators
that are right. All other nodes keep their places.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from activities.documents.raw import DocumentPath, RawDocument
from workflows.conditions import SUBJECTS, All, Condition, SumTest
from workflows.documents import JourneyDocument, SegmentDocument
from workflows.errors import Fault

WITHIN_AN_ELEMENT = 3
"""Steps to what stands within an entry or element: `elements`, its id, the key."""

OVER_USERS = tuple(
    tuple(place.split("."))
    for place in (
        "match",
        "exit_when",
        "entries.*.audience",
        "elements.*.match",
        "elements.*.branches.*.in_segment",
        "elements.*.branches.*.not_in_segment",
    )
)
"""Where conditions over all users stand; `*` is a name that the author gave."""

OVER_DEVICES = (("elements", "*", "devices"),)
"""Where conditions over a push's devices stand."""

OVER_EVENTS = tuple(
    tuple(place.split("."))
    for place in (
        "goals.*.trigger.where",
        "entries.*.trigger.where",
        "elements.*.branches.*.trigger.where",
        "elements.*.branches.*.any.*.where",
        "elements.*.branches.*.all.*.where",
    )
)
"""Where conditions over a trigger's event stand."""

_LISTS = ("all", "any")
_NESTED = ("not", "any_device", "where")
_COMPARED = ("attribute", "device", "property")
"""Subjects with operators of any type."""

_CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)

NOTHING = All.model_construct(all=())
"""A condition about which nothing is left to say: it may stand where users, devices or events are judged."""


class _NamedSum(SumTest):
    """A sum of which only the name of its property can be read."""

    required: ClassVar[bool] = False


def parsed(
    model: type[JourneyDocument] | type[SegmentDocument], data: Mapping[str, Any]
) -> JourneyDocument | SegmentDocument:
    """Read a document's data.

    Args:
        model: What the data is read as.
        data: The document's content.

    Returns:
        The document.

    Raises:
        ValidationError: With every fault of the document's form.
    """
    # Names of fields that a document spells otherwise, such as `is_`, are not for documents.
    return model.model_validate(data, by_alias=True, by_name=False)


def without_faults(
    raw: RawDocument, model: type[JourneyDocument] | type[SegmentDocument], faults: Sequence[Fault]
) -> JourneyDocument | SegmentDocument | None:
    """Give a document without what is wrong in its form.

    Args:
        raw: The document.
        model: What it was read as.
        faults: The faults that were found then.

    Returns:
        The rest of the document; None when there is no sense in the rest as a whole.
    """
    data = copy.deepcopy(raw.data)
    faulty = [raw.path_of(fault.path) for fault in faults]
    conditions = {path[: _condition_at(path)] for path in faulty if _condition_at(path)}
    # Each once: of a condition with many faults the rest is one.
    for path in dict.fromkeys(path[: _condition_at(path) or len(path)] for path in faulty):
        end = len(path)
        if not path or (path[0] in ("entries", "elements") and end < WITHIN_AN_ELEMENT):
            return None  # without a whole element, branches would seem to lead nowhere
        holder = _found(data, path[: end - 1])
        if not isinstance(holder, dict):
            continue
        if path[:end] not in conditions:
            holder.pop(path[end - 1], None)
        elif path[end - 1] in holder:
            holder[str(path[end - 1])] = _rest_at(raw, path[:end], faulty)
    try:
        return parsed(model, data)
    except ValidationError:
        return None


def conditions_left(raw: RawDocument, faults: Sequence[Fault]) -> Iterator[tuple[DocumentPath, Condition]]:
    """List the conditions over users or devices of a document that makes no sense as a whole, without their faults.

    Args:
        raw: The document.
        faults: What is wrong with its form.

    Yields:
        Where each condition stands, and what is left of it.
    """
    faulty = [raw.path_of(fault.path) for fault in faults]
    for pattern in (*OVER_USERS, *OVER_DEVICES):
        for place in _places(raw.data, pattern):
            yield place, _rest_at(raw, place, faulty)


def is_over_devices(place: DocumentPath) -> bool:
    """Tell whether the condition at a place judges devices."""
    return any(_fits(place, pattern) for pattern in OVER_DEVICES)


def _rest_at(raw: RawDocument, place: DocumentPath, faulty: Sequence[DocumentPath]) -> Condition:
    within = [path[len(place) :] for path in faulty if path[: len(place)] == place]
    return _rest(_found(raw.data, place), within)


def _rest(node: Any, faulty: Sequence[DocumentPath]) -> Condition:
    """Give what can be read of a condition, the ways to whose faults are given from itself."""
    if not isinstance(node, dict):
        return NOTHING
    whole: dict[str, Any] = {}
    less: dict[str, Any] = {}  # without the values that may lack something, now that what is wrong in them is gone
    for key, value in node.items():
        within = [path[1:] for path in faulty if path[:1] == (key,)]
        if not within:
            whole[key] = less[key] = value
        elif key in _NESTED:
            whole[key] = less[key] = _rest(value, within)
        elif key in _LISTS and isinstance(value, list) and () not in within:
            whole[key] = less[key] = _rests(value, within)
        elif isinstance(value, dict) and () not in within:
            whole[key] = {inner: one for inner, one in value.items() if inner not in {path[0] for path in within}}
            if key == "sum" and isinstance(name := value.get("property"), str):
                less[key] = _NamedSum(property=name)
    for left in (whole, less, *_by_name(less)):
        try:
            return _CONDITION.validate_python(left, by_alias=True, by_name=False)
        except ValidationError:
            continue
    return NOTHING


def _rests(nodes: list[Any], faulty: Sequence[DocumentPath]) -> list[Any]:
    """Give what can be read of conditions that stand together."""
    within: dict[str | int, list[DocumentPath]] = defaultdict(list)
    for path in faulty:
        within[path[0]].append(path[1:])
    return [_rest(node, within[place]) if place in within else node for place, node in enumerate(nodes)]


def _by_name(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give a node as little more than its name, where its operators make no sense together."""
    subjects = [subject for subject in SUBJECTS if subject in node]
    if len(subjects) != 1:
        return
    (subject,) = subjects
    name = {subject: node[subject]}
    if subject in _COMPARED:
        yield name | {"is_set": "true"}  # which columns of any type have
    if subject == "event":
        yield name | {key: node[key] for key in ("sum", "where") if key in node}
    yield name


def _found(data: Any, path: DocumentPath) -> Any:
    """Find a value; None where there is none."""
    for step in path:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return None
    return data


def _condition_at(path: DocumentPath) -> int:
    """Tell after how many steps a way comes to a condition; 0 where it comes to none."""
    for end in range(1, len(path) + 1):
        if any(_fits(path[:end], pattern) for pattern in (*OVER_USERS, *OVER_DEVICES, *OVER_EVENTS)):
            return end
    return 0


def _fits(path: DocumentPath, pattern: Sequence[str]) -> bool:
    return len(path) == len(pattern) and all(part in ("*", step) for step, part in zip(path, pattern, strict=True))


def _places(data: Any, pattern: Sequence[str], at: DocumentPath = ()) -> Iterator[DocumentPath]:
    """List the places of a document that fit a pattern."""
    if not pattern:
        yield at
    elif isinstance(data, dict):
        for key in data if pattern[0] == "*" else {pattern[0]} & data.keys():
            yield from _places(data[key], pattern[1:], (*at, key))
