"""Judges a condition for one user in plain Python, slowly: what the compiled query has to agree with.

It shares the models with the compiler and nothing else: it reads values, counts days and compares in its own way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from activities.segments.compiler import Built
from activities.tables.schema import Kind
from workflows.conditions import (
    All,
    Any_,
    AnyDevice,
    AttributeTest,
    Condition,
    DeviceTest,
    EventTest,
    Everyone,
    FileRef,
    Not,
    PropertyTest,
    SegmentRef,
)
from workflows.operators import AttributeRef, HowMany, Operators, PropertyRef

Row = Mapping[str, Any]
UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Oracle:
    """The tables as lists of dicts. A missing value is None; a price is a dict; a version is its text."""

    kinds: Mapping[str, Mapping[str, Kind]]
    devices: list[Row]
    events: list[Row]
    as_of: datetime
    zone: str
    segments: Mapping[str, Built | set[str]] = field(default_factory=dict)

    def holds(self, node: Condition, user: Row) -> bool:  # noqa: C901 - one case for each subject
        mine = [device for device in self.devices if device["user_id"] == user["user_id"]]
        match node:
            case All():
                return all([self.holds(child, user) for child in node.all])
            case Any_():
                return any([self.holds(child, user) for child in node.any])
            case Not():
                return not self.holds(node.not_, user)
            case Everyone():
                return True
            case AttributeTest():
                return self.compares(node, user.get(node.attribute), "users", node.attribute, user, user)
            case DeviceTest():
                return any(
                    self.compares(node, device.get(node.device), "devices", node.device, device, device)
                    for device in mine
                )
            case AnyDevice():
                return any(self.row(node.any_device, "devices", device, device) for device in mine)
            case EventTest():
                return self.did(node, user)
            case SegmentRef():
                meant = self.segments[node.segment]
                if isinstance(meant, Built):
                    return replace(self, zone=meant.zone).holds(meant.condition, user)
                return user["user_id"] in meant
            case FileRef():
                members = self.segments[node.file]
                assert isinstance(members, set)
                return user["user_id"] in members
            case _:
                raise AssertionError(node)

    def row(self, node: Condition, table: str, row: Row, user: Row) -> bool:
        match node:
            case All():
                return all([self.row(child, table, row, user) for child in node.all])
            case Any_():
                return any([self.row(child, table, row, user) for child in node.any])
            case Not():
                return not self.row(node.not_, table, row, user)
            case AttributeTest(attribute=name) | PropertyTest(property=name):
                return self.compares(node, row.get(name), table, name, row, user)
            case _:
                raise AssertionError(node)

    def did(self, node: EventTest, user: Row) -> bool:
        found = []
        for event in self.events:
            if event["user_id"] != user["user_id"] or event["event"] != node.event:
                continue
            if node.operators and not self.compares(node, event["at"], "events", "at", event, user):
                continue
            if node.where is None or self.row(node.where, "events", event, user):
                found.append(event)
        if node.sum is None:
            return within(node.count, len(found)) if node.count else bool(found)
        return self.adds_up(node, [event.get(node.sum.property) for event in found])

    def adds_up(self, node: EventTest, values: list[Any]) -> bool:
        assert node.sum is not None
        kind = self.kinds["events"][node.sum.property]
        bounds = {word: parsed(text, kind) for word, text in pairs(node.sum)}
        present = [value for value in values if value is not None]
        if kind == "price":
            currency = next(iter(bounds.values()))["currency"]
            total: Any = sum((value["amount"] for value in present if value["currency"] == currency), Decimal(0))
            return all(orders(word, total, bound["amount"]) for word, bound in bounds.items())
        return all(orders(word, sum(present), bound) for word, bound in bounds.items())

    def compares(self, node: Operators, value: Any, table: str, name: str, row: Row, user: Row) -> bool:
        kind = self.kinds[table].get(name)
        return all(self.one(node, word, value, kind, table, row, user) for word in node.operators)

    def one(self, node: Any, word: str, value: Any, kind: Any, table: str, row: Row, user: Row) -> bool:  # noqa: C901
        operand = node.operators[word]
        if word in {"is_set", "is_not_set"}:
            return (value is None) == (word == "is_not_set")
        if value is None:
            return False
        fold = str.lower if getattr(node, "ignores_case", False) else str

        def known(item: Any) -> tuple[Any, Any]:
            if isinstance(item, str):
                read = parsed(item, "string" if kind == "list" else kind)
                return read, "date" if kind == "instant" and not isinstance(read, datetime) else kind
            source, columns = (user, "users") if isinstance(item, AttributeRef) and table == "events" else (row, table)
            key = item.property if isinstance(item, PropertyRef) else item.attribute
            found, its = source.get(key), self.kinds[columns].get(key)
            if found is not None and item.times is not None:
                if its == "price":
                    found = {"amount": found["amount"] * Decimal(item.times), "currency": found["currency"]}
                else:
                    factor = Fraction(item.times)
                    exact = its == "integer" and (kind == "integer" or factor.denominator == 1)
                    found = Fraction(found) * factor if exact else float(Fraction(found) * factor)
            return found, its

        def relates(relation: str, item: Any) -> bool:
            other, its = known(item)
            if other is None:
                return False
            mine = value
            if kind == "price":
                if mine["currency"] != other["currency"]:
                    return relation == "is_not"
                mine, other = mine["amount"], other["amount"]
            elif kind == "version":
                mine, other = parts(mine), parts(other)
            elif {kind, its} == {"date", "instant"}:
                mine, other = self.day(mine), self.day(other)
            elif kind == "string":
                mine, other = fold(mine), fold(other)
            return orders(relation, mine, other)

        match word:
            case "in":
                return any(relates("is", item) for item in operand)
            case "not_in":
                return all(relates("is_not", item) for item in operand)
            case "between":
                return relates("at_least", operand[0]) and relates("at_most", operand[1])
            case "contains" | "starts_with" | "ends_with" | "has":
                other = known(operand)[0]
                if other is None:
                    return False
                if word == "has":
                    return fold(other) in [fold(item) for item in value]
                mine, other = fold(value), fold(other)
                return {"contains": other in mine, "starts_with": mine.startswith(other)}.get(
                    word, mine.endswith(other)
                )
            case "matches":
                return re.search(operand, value, re.IGNORECASE if node.ignores_case else 0) is not None
            case "has_any" | "has_all":
                items = [fold(item) for item in value]
                hits = [known(item)[0] is not None and fold(known(item)[0]) in items for item in operand]
                return any(hits) if word == "has_any" else all(hits)
            case "within_last" | "within_next" | "older_than" | "days_ago" | "days_ahead" | "anniversary":
                return self.timely(word, operand, value)
            case _:
                return relates(word, operand)

    def timely(self, word: str, operand: Any, value: Any) -> bool:
        today = self.as_of.astimezone(ZoneInfo(self.zone)).date()
        if isinstance(operand, HowMany):
            day = self.day(value)
            if word == "anniversary":
                ahead = 0
                while not same_day_of_year(today + timedelta(days=ahead), day):
                    ahead += 1
                return within(operand, ahead)
            days = (today - day).days if word == "days_ago" else (day - today).days
            return days >= 0 and within(operand, days)
        lasting = timedelta(seconds=sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([wdhms])", operand)))
        now: Any = self.as_of if isinstance(value, datetime) else today
        if word == "older_than":
            return bool(value < now - lasting)
        return bool(now - lasting <= value <= now if word == "within_last" else now <= value <= now + lasting)

    def day(self, value: date | datetime) -> date:
        return value.astimezone(ZoneInfo(self.zone)).date() if isinstance(value, datetime) else value


def within(test: HowMany, number: int) -> bool:
    limits = {word: value for word, value in test.operators.items() if word != "between"}
    if test.between is not None:
        limits |= {"at_least": test.between[0], "at_most": test.between[1]}
    return all(orders({"exactly": "is"}.get(word, word), number, int(limit)) for word, limit in limits.items())


def pairs(test: Operators) -> list[tuple[str, str]]:
    found = [(word, text) for word, text in test.operators.items() if word != "between"]
    return found + list(zip(("at_least", "at_most"), test.operators.get("between", ()), strict=False))


def orders(relation: str, mine: Any, other: Any) -> bool:
    return bool(
        {
            "is": lambda: mine == other,
            "is_not": lambda: mine != other,
            "at_least": lambda: mine >= other,
            "at_most": lambda: mine <= other,
            "more_than": lambda: mine > other,
            "after": lambda: mine > other,
            "less_than": lambda: mine < other,
            "before": lambda: mine < other,
        }[relation]()
    )


def same_day_of_year(day: date, wanted: date) -> bool:
    if (wanted.month, wanted.day) == (2, 29):
        return (day.month, day.day) == (2, 29 if is_leap(day.year) else 28)
    return (day.month, day.day) == (wanted.month, wanted.day)


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def parts(version: str) -> list[int]:
    numbers = [int(part) for part in version.split(".")]
    return numbers + [0] * (4 - len(numbers))


def parsed(text: str, kind: Kind) -> Any:
    match kind:
        case "integer":
            return int(text)
        case "number":
            return float(text)
        case "boolean":
            return text == "true"
        case "date":
            return date.fromisoformat(text)
        case "instant" if "T" in text:
            read = datetime.fromisoformat(text)
            return read if read.tzinfo else read.replace(tzinfo=UTC)
        case "instant":
            return date.fromisoformat(text)
        case "price":
            amount, currency = text.split()
            return {"amount": Decimal(amount), "currency": currency}
        case _:
            return text
