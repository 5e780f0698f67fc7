"""Pushwoosh's segment expressions, `T("City", eq, "Tokyo") * T("Age", gte, 18)`, as conditions of ours.

What an operator means depends on the column that the tag is:

* A tag is an attribute of the user; one that only devices have is true when any of the user's devices has it so.
  Its name is compared without upper and lower case where exactly one column fits.
* Texts are compared without upper and lower case, since Pushwoosh keeps them in lower case.
* `NOTEQ` and `NOTIN` do not cover users for whom the tag was never set.
* On a list, `EQ` and `CONTAINS` find a value in it, `IN` one of several.
* A date is written in quotes. A bare number could be a number of days or a Unix time, so it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from activities.segments.checking import check_condition
from activities.segments.comparisons import TAKES
from activities.segments.seglang_syntax import Call, Joined, Negated, Parser, Part, Value, excerpt
from activities.segments.values import EXAMPLES, read_value
from activities.tables.schema import Kind, Schema
from workflows.conditions import Condition, render_path
from workflows.errors import DefinitionError, Fault
from workflows.scalars import nearest, quoted

LISTED = 12
"""Most names that a message lists."""

OPERATORS = {
    "EQ": "is",
    "EQUALS": "is",
    "NOTEQ": "is_not",
    "GTE": "at_least",
    "LTE": "at_most",
    "BETWEEN": "between",
    "IN": "in",
    "NOTIN": "not_in",
    "CONTAINS": "contains",
    "EXISTS": "is_set",
    "ISEMPTY": "is_not_set",
}
"""Each operator, and the one of the segment language that says the same."""

_MORE = ("GTE", "LTE", 1, "more_than")
_LESS = ("LTE", "GTE", -1, "less_than")
_STRICT = {"GT": _MORE, "GREATERTHAN": _MORE, "MORETHAN": _MORE, "LT": _LESS, "LESSTHAN": _LESS}
"""Operators that exclude the value, which Pushwoosh does not have: the one that includes it, the opposite of the one
that is meant, the step to the next whole number, and the word of the segment language."""

_POSITIVE = {"is_not": "is", "not_in": "in"}
_ON_LISTS = {"is": "has", "contains": "has", "in": "has_any"}
_SEVERAL = ("between", "in", "not_in")
_NONE = ("is_set", "is_not_set")

_ONE_PROJECT = "all users here are of one project: leave it out"
FOREIGN = {
    "A": _ONE_PROJECT + ', and write `T("Platform", eq, "ios")` for a platform',
    "APP": _ONE_PROJECT,
    "APPLICATION": _ONE_PROJECT,
    "AT": 'all users here are of one project: write `T("Tag", OPERATOR, value)`',
    "G": _ONE_PROJECT,
    "EVENT": "write it in YAML: `{event: NAME, count: {at_least: 1}, within_last: 30d}`",
    "UPDATED": "write it in YAML: `{device: last_seen, within_last: 30d}`",
}
"""Conditions of Pushwoosh that have no meaning in an expression here, each with what to do."""

_CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)

Place: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True)
class _Meant:
    """A condition as data, and where in the expression each of its conditions began."""

    data: dict[str, Any]
    places: dict[Place, int]


def read_seglang(text: str, schema: Schema) -> Condition:
    """Read a segment expression.

    Args:
        text: The expression.
        schema: The columns of `users` and `devices`, each with its kind.

    Returns:
        The condition that selects the same users.

    Raises:
        DefinitionError: It cannot be read, names no column, or asks for what has no meaning here: every fault, each
            with its line and column.
    """
    parser = Parser(text)
    translation = _Translation(schema, parser)
    part = parser.whole()
    meant = translation.part(part) if part is not None else None
    if meant is None:
        for call in parser.calls:  # where nothing more can be read, the faults of what was read are told all the same
            translation.call(call)
    if meant is None or parser.faults:
        raise DefinitionError(sorted(parser.faults, key=lambda fault: (fault.line or 0, fault.column or 0)))
    condition = _CONDITION.validate_python(meant.data)
    found = check_condition(condition, schema, at=(), segments=None)
    if found:
        raise DefinitionError([_placed(fault, meant.places, parser.position) for fault in found])
    return condition


def _placed(fault: Fault, places: dict[Place, int], position: Callable[[int], tuple[int, int]]) -> Fault:
    around = [place for place in places if fault.path.startswith(render_path(place))]
    line, column = position(places[max(around, key=len)] if around else 0)
    return fault.model_copy(update={"path": "", "line": line, "column": column})


@dataclass
class _Translation:
    """Gives what each part of an expression means, over some columns; faults go where the syntax' faults are."""

    schema: Schema
    parser: Parser

    def part(self, part: Part) -> _Meant:
        """Translate an expression."""
        match part:
            case Joined():
                return _joined(part.word, [self.part(one) for one in part.parts])
            case Negated():
                return _negated(self.part(part.part))
            case Call():
                return self.call(part)

    def call(self, call: Call) -> _Meant:
        """Translate one condition."""
        return self.tag(call) if [name.upper() for name in call.chain] == ["T"] else self.foreign(call)

    def foreign(self, call: Call) -> _Meant:
        """Refuse by name what has no meaning here, and go on."""
        name = call.chain[0].upper()
        known = next((key for key in sorted(FOREIGN, key=len, reverse=True) if _is_named(name, key)), None)
        shown = ".".join(f"{one}(...)" for one in call.chain)
        hint = FOREIGN[known] if known else 'a condition is `T("Tag", OPERATOR, value)`'
        if len(call.chain) > 1:
            hint = 'write `T("City", eq, "London")` for `A(...).tags("City").eq("London")`'
        what = "has no meaning here" if known else "is not known"
        self.parser.fault("seglang-unsupported" if known else "seglang-unknown", call.at, f"`{shown}` {what}", hint)
        return _Meant({"everyone": "true"}, {})

    def tag(self, call: Call) -> _Meant:
        """Read the condition `T`; an empty stand-in where it has faults."""
        values = call.values
        data = None
        shape = 'write `T("Tag", OPERATOR, value)`'
        if len(values) < 2:
            message = f"`T` takes a tag, an operator and a value, not {len(values)} in all"
            self.parser.fault("seglang", call.at, message, shape)
        elif values[0].form not in {"text", "word"}:
            self.parser.fault("seglang", values[0].at, f"{_shown(values[0])} is no name of a tag", shape)
        else:
            column = self.column(values[0])
            word = self.operator(values[1], column, values[2:])
            if column and word and self.has_count(values[1], word, values[2:]):
                data = self.test(column, word, values)
        return _Meant(data or {"everyone": "true"}, {(): call.at})

    def column(self, name: Value) -> tuple[str, str, Kind] | None:
        """Find the column that a tag is: its subject, its name and its kind."""
        for subject, table in (("attribute", "users"), ("device", "devices")):
            known = self.schema.get(table, {})
            if name.text in known:
                return subject, name.text, known[name.text]
        everywhere: list[str] = []
        for subject, table in (("attribute", "users"), ("device", "devices")):
            known = self.schema.get(table, {})
            fitting = [column for column in known if column.casefold() == name.text.casefold()]
            if len(fitting) == 1:
                return subject, fitting[0], known[fitting[0]]
            if fitting:
                message = f"the tag {name.text!r} may be {quoted(fitting)}"
                hint = "write it in the upper and lower case of one of them"
                self.parser.fault("unknown-tag", name.at, message, hint)
                return None
            everywhere += known
        names = list(dict.fromkeys(everywhere))
        near = nearest(name.text, names)
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        listed = (
            f"; users and devices have {', '.join(names[:LISTED])}{more}" if names else "; nothing was imported yet"
        )
        hint = f"did you mean {quoted(near)}?" if near else "a tag is a column of users or devices: journeys tables"
        self.parser.fault("unknown-tag", name.at, f"unknown tag {name.text!r}{listed}", hint)
        return None

    def operator(self, written: Value, column: tuple[str, str, Kind] | None, values: list[Value]) -> str | None:
        """Read an operator: the word of the segment language that says the same."""
        name = written.text.upper().replace(" ", "").replace("_", "")
        known = written.form in {"word", "text"}
        if known and name in OPERATORS:
            return OPERATORS[name]
        fitting = [key for key, word in OPERATORS.items() if column is None or _takes(word, column[2])]
        near = nearest(written.text, OPERATORS) if known and name not in _STRICT else []
        hint = f"did you mean {quoted(near)}?" if near else f"known are {quoted(fitting)}"
        if column is not None:
            hint = f"did you mean {quoted(near)}?" if near else f"{column[1]} takes {quoted(fitting)}"
            if known and name in _STRICT and "GTE" in fitting:
                hint = f"{_without_the_value(name, column, values)}; {hint}"
        self.parser.fault("unknown-operator", written.at, f"unknown operator {_shown(written)}", hint)
        return None

    def has_count(self, operator: Value, word: str, values: list[Value]) -> bool:
        """Check how many values an operator is given, and in which form."""
        name = operator.text.upper()
        if word in _NONE:
            if values:
                self.parser.fault(
                    "seglang", values[0].at, f"`{name}` takes no value, and {_shown(values[0])} follows it"
                )
            return not values
        if len(values) != 1:
            at = values[1].at if values else operator.at
            several = ": put them in brackets, `[1, 2]`" if word in _SEVERAL else ""
            self.parser.fault("seglang", at, f"`{name}` takes one value, not {len(values)}{several}")
            return False
        (value,) = values
        if word not in _SEVERAL:
            if value.form == "list":
                hint = "`IN` takes a list" if word == "is" else "`NOTIN` takes a list" if word == "is_not" else ""
                self.parser.fault("seglang", value.at, f"`{name}` takes one value, not a list", hint)
            return value.form != "list"
        wanted = 2 if word == "between" else None
        if value.form != "list" or not value.items or (wanted and len(value.items) != wanted):
            found = f"a list of {len(value.items)}" if value.form == "list" else _shown(value)
            what = "a list of two values, such as `[18, 65]`" if wanted else "a list, such as `[1, 2]`"
            self.parser.fault("seglang", value.at, f"`{name}` takes {what}, not {found}")
            return False
        return True

    def test(self, column: tuple[str, str, Kind], word: str, values: list[Value]) -> dict[str, Any] | None:
        """Make the condition of a tag; None when the values do not fit its kind."""
        subject, name, kind = column
        leaf = {subject: name}
        if word == "is_not_set" and subject == "device":
            return {"not": {**leaf, "is_set": "true"}}  # empty where no device of the user has it
        if word in _NONE:
            return {**leaf, word: "true"}
        positive = _POSITIVE.get(word, word)
        meant = _ON_LISTS.get(positive, positive) if kind == "list" else word
        if kind not in TAKES[meant]:
            takes = f"{name} takes {quoted(key for key, known in OPERATORS.items() if _takes(known, kind))}"
            message = f"`{values[1].text.upper()}` does not compare {_a(kind)}"
            self.parser.fault("wrong-type", values[1].at, message, takes)
            return None
        texts = [self.operand(value, kind) for value in values[2].items or values[2:]]
        if None in texts:
            return None
        test: dict[str, Any] = {meant: texts if word in _SEVERAL else texts[0]}
        if kind in {"string", "list"}:
            test["ignore_case"] = "true"
        if meant == word or positive == word:
            return {**leaf, **test}
        own = {"attribute": name}
        others = {"all": [{**own, "is_set": "true"}, {"not": {**own, **test}}]}
        return others if subject == "attribute" else {"any_device": others}

    def operand(self, value: Value, kind: Kind) -> str | None:
        """Read one value by the kind of its column; None when it does not fit."""
        if value.form == "list":
            self.parser.fault("seglang", value.at, "a list in a list has no meaning here")
            return None
        if kind in {"date", "instant"} and value.form == "number":
            message = f"{value.text} may be days or a Unix time, and this is {_a(kind)}"
            hint = (
                f'write a date in quotes, `"{EXAMPLES[kind]}"`; days are written in YAML: `days_ago: {{at_least: 3}}`'
            )
            self.parser.fault("unreadable-value", value.at, message, hint)
            return None
        if value.form == "word" and kind != "boolean":
            hint = f'did you mean `"{value.text}"`?'
            self.parser.fault("seglang", value.at, f"the text {value.text!r} stands without quotes", hint)
            return None
        try:
            read_value(value.text, kind)
        except ValueError as error:
            self.parser.fault("unreadable-value", value.at, str(error))
            return None
        return value.text


def _takes(word: str, kind: Kind) -> bool:
    positive = _POSITIVE.get(word, word)
    return kind in TAKES[_ON_LISTS.get(positive, positive) if kind == "list" else word]


def _without_the_value(operator: str, column: tuple[str, str, Kind], values: list[Value]) -> str:
    """Say how `more than` or `less than` is written, which have no operator."""
    including, opposite, step, word = _STRICT[operator]
    subject, name, kind = column
    value = values[0].text if len(values) == 1 and values[0].form in {"number", "text"} else EXAMPLES[kind]
    if kind == "integer" and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return f"`{including}` includes its value: write `{including}, {int(value) + step}`"
    if subject == "attribute" and kind != "price":
        shown = value if kind in {"integer", "number", "version"} else f'"{value}"'
        return f'`{including}` includes its value: write `T("{name}", EXISTS) \\ T("{name}", {opposite}, {shown})`'
    # What is taken away by the opposite would be other currencies too, or a user's other devices.
    return f"`{including}` includes its value: write it in YAML, `{{{subject}: {name}, {word}: {value}}}`"


def _joined(word: str, parts: list[_Meant]) -> _Meant:
    """Join parts by `all` or `any`; those that are joined by the same word already are taken in."""
    data: list[dict[str, Any]] = []
    places: dict[Place, int] = {}
    for part in parts:
        inner = part.data.get(word) if set(part.data) == {word} and () not in part.places else None
        for place, at in part.places.items():
            moved = (word, len(data) + int(place[1]), *place[2:]) if inner else (word, len(data), *place)
            places[moved] = at
        data += inner or [part.data]
    return _Meant({word: data}, places)


def _negated(part: _Meant) -> _Meant:
    return _Meant({"not": part.data}, {("not", *place): at for place, at in part.places.items()})


def _is_named(name: str, key: str) -> bool:
    # Of `Event...` and `Updated...` only the beginning of the name is documented.
    return name.startswith(key) if key in {"EVENT", "UPDATED"} else name == key


def _shown(value: Value) -> str:
    return "a list" if value.form == "list" else excerpt(value.text)


def _a(kind: Kind) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
