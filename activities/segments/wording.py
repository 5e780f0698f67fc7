"""Words a condition in a line that people read: `age at least 18, less than 65`."""

from __future__ import annotations

from typing import Any

from workflows.conditions import (
    All,
    Any_,
    AnyDevice,
    AttributeTest,
    Condition,
    DeviceTest,
    EntryRef,
    EventTest,
    Everyone,
    FileRef,
    HowMany,
    Not,
    PropertyRef,
    PropertyTest,
    SegmentRef,
)
from workflows.operators import AttributeRef, Comparison, Operators

_DAYS = {"days_ago": "{} days ago", "days_ahead": "in {} days", "anniversary": "comes round in {} days"}


def worded(node: Condition) -> str:
    """Word a condition.

    Args:
        node: The condition.

    Returns:
        One line, with the author's own values.
    """
    match node:
        case All():
            return " and ".join(map(_inner, node.all))
        case Any_():
            return " or ".join(map(_inner, node.any))
        case Not():
            return f"not {_inner(node.not_)}"
        case AttributeTest(attribute=name) | PropertyTest(property=name):
            return f"{name} {_tests(node)}"
        case DeviceTest(device=name):
            return f"a device with {name} {_tests(node)}"
        case AnyDevice():
            return f"a device with {worded(node.any_device)}"
        case EventTest():
            return _event(node)
        case _:
            return _set(node)


def _set(node: Condition) -> str:
    match node:
        case Everyone():
            return "everyone"
        case SegmentRef():
            return f"segment {node.segment}"
        case FileRef():
            return f"file {node.file}"
        case _:
            raise TypeError(f"{type(node).__name__} is no set of users")


def _inner(node: Condition) -> str:
    return f"({worded(node)})" if isinstance(node, All | Any_) else worded(node)


def _event(node: EventTest) -> str:
    if node.sum is not None:
        measure = f": sum of {node.sum.property} {_tests(node.sum)}"
    else:
        measure = f" {_number(node.count)} times" if node.count is not None else " at least once"
    window = f", {_tests(node)}" if node.operators else ""
    return f"{node.event}{measure}{window}" + (f", where {worded(node.where)}" if node.where is not None else "")


def _tests(node: Operators) -> str:
    text = ", ".join(_test(word, value) for word, value in node.operators.items())
    return f"{text}, in upper or lower case" if isinstance(node, Comparison) and node.ignores_case else text


def _test(word: str, value: Any) -> str:
    if isinstance(value, HowMany):
        return _DAYS[word].format(_number(value))
    if word in {"is_set", "is_not_set"}:
        return word.replace("_", " ")
    joint = " and " if word == "between" else ", "
    values = joint.join(map(_value, value)) if isinstance(value, tuple) else _value(value)
    return f"{word.replace('_', ' ')} {values}"


def _number(test: HowMany | None) -> str:
    if test is None:
        return ""
    return ", ".join(
        f"{word.replace('_', ' ')} {' and '.join(value) if isinstance(value, tuple) else value}"
        for word, value in test.operators.items()
    )


def _value(value: Any) -> str:
    match value:
        case AttributeRef(attribute=name) | PropertyRef(property=name):
            text = name
        case EntryRef(entry=name):
            text = f"entry.{name}"
        case _:
            return str(value) or "''"
    return text if value.times is None else f"{value.times} × {text}"
