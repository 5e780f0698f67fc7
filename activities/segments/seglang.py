r"""Reads Pushwoosh's segment expressions: `T("City", eq, "Tokyo") * T("Age", gte, 18)`.

```
expression = term { "+" term }                              union
term       = part { "*" part | "\" part }                   intersection, subtraction
part       = "(" expression ")" | T("Tag", OPERATOR, value)
value      = "text" | 18 | 2.5 | true | [value, ...]
```

Which of `+`, `*` and `\` binds closer is not documented. Here `*` and `\` bind closer than `+`, and each is read from
left to right: `A + B \ C * D` is `A + ((B \ C) * D)`.

What an operator means depends on the column that the tag is:

* A tag is an attribute of the user; one that only devices have is true when any of the user's devices has it so.
  Its name is compared without upper and lower case where exactly one column fits.
* Texts are compared without upper and lower case, since Pushwoosh keeps them in lower case.
* `NOTEQ` and `NOTIN` do not cover users for whom the tag was never set.
* On a list, `EQ` and `CONTAINS` find a value in it, `IN` one of several.
* A date is written in quotes. A bare number could be a number of days or a Unix time, so it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import TypeAdapter

from activities.segments.checking import check_condition
from activities.segments.comparisons import TAKES
from activities.segments.values import EXAMPLES, read_value
from activities.tables.schema import Kind, Schema
from workflows.conditions import Condition, render_path
from workflows.errors import DefinitionError, Fault
from workflows.scalars import nearest, quoted

DEPTH_LIMIT = 50
"""Deepest nesting of parentheses and lists."""

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

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>[+-]?\.?\d(?:[eE][+-]?\d|[\w.])*)
      | (?P<word>[^\W\d]\w*)
      | (?P<sign>[()\[\],.*+\\])
      | (?P<open>["'].*)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)

Form: TypeAlias = Literal["text", "number", "word", "list"]
Place: TypeAlias = tuple[str | int, ...]


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class _Value:
    """What stands between two commas."""

    form: Form
    text: str
    at: int
    items: tuple[_Value, ...] = ()


@dataclass(frozen=True)
class _Part:
    """A condition as data, and where in the expression each of its conditions began."""

    data: dict[str, Any]
    places: dict[Place, int]


class _Stop(Exception):
    """Nothing after this place can be read."""


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
    reader = _Reader(text, schema)
    part = reader.whole()
    if reader.faults or part is None:
        raise DefinitionError(sorted(reader.faults, key=lambda fault: (fault.line or 0, fault.column or 0)))
    condition = _CONDITION.validate_python(part.data)
    found = check_condition(condition, schema, at=(), segments=None)
    if found:
        raise DefinitionError([_placed(fault, part.places, reader.position) for fault in found])
    return condition


def _placed(fault: Fault, places: dict[Place, int], position: Callable[[int], tuple[int, int]]) -> Fault:
    around = [place for place in places if fault.path.startswith(render_path(place))]
    line, column = position(places[max(around, key=len)] if around else 0)
    return fault.model_copy(update={"path": "", "line": line, "column": column})


@dataclass
class _Reader:
    text: str
    schema: Schema
    faults: list[Fault] = field(default_factory=list)
    next: int = 0
    tokens: list[_Token] = field(default_factory=list)

    def position(self, at: int) -> tuple[int, int]:
        """Give the line and column of a place in the text."""
        before = self.text[:at]
        return before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1

    def fault(self, code: str, at: int, message: str, hint: str = "") -> None:
        line, column = self.position(at)
        self.faults.append(Fault(code=code, message=message, hint=hint, line=line, column=column))

    def stop(self, at: int, message: str, hint: str = "") -> _Stop:
        self.fault("seglang", at, message, hint)
        return _Stop()

    def whole(self) -> _Part | None:
        """Read the whole expression; None when it cannot be, and the faults say why."""
        try:
            self.tokens = self.split()
            part = self.expression(0)
            if (token := self.peek()).kind != "end":
                raise self.unexpected(token, "`*`, `+` or `\\` between two conditions")
        except _Stop:
            return None
        return part

    def split(self) -> list[_Token]:
        """Split the text into tokens, the last of which is its end."""
        for at, letter in enumerate(self.text):
            if "\ud800" <= letter <= "\udfff":
                raise self.stop(at, f"the expression holds bytes that are no text: {letter!r}", "write it in UTF-8")
        tokens = []
        for match in _TOKEN.finditer(self.text):
            kind, text = str(match.lastgroup), match.group()
            if kind == "open":
                raise self.stop(match.start(), f"the text {_excerpt(text)} does not end: its quote is not closed")
            if kind == "other":
                raise self.stop(
                    match.start(), f"{text!r} cannot stand here", "two conditions are joined by `*`, `+`, `\\`"
                )
            if kind != "space":
                tokens.append(_Token(kind, text, match.start()))
        return [*tokens, _Token("end", "", len(self.text))]

    def peek(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.tokens[self.next]
        self.next += token.kind != "end"
        return token

    def accept(self, *signs: str) -> _Token | None:
        """Take the next token if it is one of some signs."""
        token = self.peek()
        return self.take() if token.kind == "sign" and token.text in signs else None

    def expect(self, sign: str, wanted: str) -> None:
        if not self.accept(sign):
            raise self.unexpected(self.peek(), wanted)

    def unexpected(self, token: _Token, wanted: str) -> _Stop:
        if token.kind == "end":
            return self.stop(token.at, f"the expression ends where {wanted} is expected")
        return self.stop(token.at, f"{_excerpt(token.text)} cannot stand here: {wanted} is expected")

    def expression(self, depth: int) -> _Part:
        """Read a union."""
        parts = [self.term(depth)]
        while self.accept("+"):
            parts.append(self.term(depth))
        return _joined("any", parts)

    def term(self, depth: int) -> _Part:
        """Read an intersection, and what is taken from it."""
        parts = [self.part(depth)]
        while sign := self.accept("*", "\\"):
            part = self.part(depth)
            parts.append(part if sign.text == "*" else _negated(part))
        return _joined("all", parts)

    def part(self, depth: int) -> _Part:
        """Read a condition, or an expression in parentheses."""
        begun = self.peek()
        if self.accept("("):
            if depth >= DEPTH_LIMIT:
                raise self.stop(begun.at, f"parentheses are nested over {DEPTH_LIMIT} deep")
            part = self.expression(depth + 1)
            self.expect(")", "`)`")
            return part
        if begun.kind != "word":
            raise self.unexpected(begun, 'a condition such as `T("City", eq, "Tokyo")`')
        self.take()
        self.expect("(", "`(` after the condition's name")
        values = self.values(")", 0)
        chain = [begun.text]
        while self.accept("."):
            chain.append(self.take().text)
            self.expect("(", "`(`")
            self.values(")", 0)
        if begun.text.upper() == "T" and len(chain) == 1:
            return self.tag(begun, values)
        return self.foreign(begun, chain)

    def values(self, closing: str, depth: int) -> list[_Value]:
        """Read values up to a closing sign."""
        found: list[_Value] = []
        while not self.accept(closing):
            if found:
                self.expect(",", f"`,` or `{closing}`")
            found.append(self.value(depth))
        return found

    def value(self, depth: int) -> _Value:
        token = self.take()
        if token.kind == "text":
            return _Value("text", self.unescaped(token), token.at)
        if token.kind == "number":
            return _Value("number", token.text, token.at)
        if token.kind == "word":
            words = [token.text]
            while self.peek().kind == "word":  # `IS EMPTY`
                words.append(self.take().text)
            return _Value("word", " ".join(words), token.at)
        if token.kind == "sign" and token.text == "[":
            if depth >= DEPTH_LIMIT:
                raise self.stop(token.at, f"lists are nested over {DEPTH_LIMIT} deep")
            return _Value("list", "[...]", token.at, tuple(self.values("]", depth + 1)))
        raise self.unexpected(token, 'a value such as `"Tokyo"`, `18` or `[1, 2]`')

    def unescaped(self, token: _Token) -> str:
        """Take quotes and escapes off a text."""

        def plain(match: re.Match[str]) -> str:
            code, letter = match.groups()
            if code:
                return chr(int(code, 16))
            if letter in "\"'\\/":
                return str(letter)
            if letter not in "bfnrt":
                at = token.at + 1 + match.start()
                raise self.stop(at, f"{match.group()!r} is no escape", 'write `\\\\` for `\\`, and `\\"` for `"`')
            return str(json.loads(f'"\\{letter}"'))

        text = _ESCAPE.sub(plain, token.text[1:-1])
        try:
            # An escaped letter outside the first plane is written as a pair of surrogates.
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self.stop(token.at, f"{_excerpt(token.text)} holds half of a letter") from None

    def foreign(self, begun: _Token, chain: list[str]) -> _Part:
        """Refuse by name what has no meaning here, and read on."""
        name = begun.text.upper()
        known = next((key for key in sorted(FOREIGN, key=len, reverse=True) if _is_named(name, key)), None)
        shown = ".".join(f"{one}(...)" for one in chain)
        hint = FOREIGN[known] if known else 'a condition is `T("Tag", OPERATOR, value)`'
        if len(chain) > 1:
            hint = 'write `T("City", eq, "London")` for `A(...).tags("City").eq("London")`'
        what = "has no meaning here" if known else "is not known"
        self.fault("seglang-unsupported" if known else "seglang-unknown", begun.at, f"`{shown}` {what}", hint)
        return _Part({"everyone": "true"}, {})

    def tag(self, begun: _Token, values: list[_Value]) -> _Part:
        """Read the condition `T`; an empty stand-in where it has faults."""
        data = None
        shape = 'write `T("Tag", OPERATOR, value)`'
        if len(values) < 2:
            self.fault(
                "seglang", begun.at, f"`T` takes a tag, an operator and a value, not {len(values)} in all", shape
            )
        elif values[0].form not in {"text", "word"}:
            self.fault("seglang", values[0].at, f"{_shown(values[0])} is no name of a tag", shape)
        else:
            column = self.column(values[0])
            word = self.operator(values[1])
            if column and word and self.has_count(values[1], word, values[2:]):
                data = self.test(column, word, values)
        return _Part(data or {"everyone": "true"}, {(): begun.at})

    def column(self, name: _Value) -> tuple[str, str, Kind] | None:
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
                self.fault("unknown-tag", name.at, message, "write it in the upper and lower case of one of them")
                return None
            everywhere += known
        names = list(dict.fromkeys(everywhere))
        near = nearest(name.text, names)
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        listed = (
            f"; users and devices have {', '.join(names[:LISTED])}{more}" if names else "; nothing was imported yet"
        )
        hint = f"did you mean {quoted(near)}?" if near else "a tag is a column of users or devices: journeys tables"
        self.fault("unknown-tag", name.at, f"unknown tag {name.text!r}{listed}", hint)
        return None

    def operator(self, written: _Value) -> str | None:
        """Read an operator: the word of the segment language that says the same."""
        name = written.text.upper().replace(" ", "").replace("_", "")
        if written.form in {"word", "text"} and name in OPERATORS:
            return OPERATORS[name]
        near = nearest(written.text, OPERATORS) if written.form in {"word", "text"} else []
        hint = f"did you mean {quoted(near)}?" if near else f"known are {quoted(OPERATORS)}"
        self.fault("unknown-operator", written.at, f"unknown operator {_shown(written)}", hint)
        return None

    def has_count(self, operator: _Value, word: str, values: list[_Value]) -> bool:
        """Check how many values an operator is given, and in which form."""
        name = operator.text.upper()
        if word in _NONE:
            if values:
                self.fault("seglang", values[0].at, f"`{name}` takes no value, and {_shown(values[0])} follows it")
            return not values
        if len(values) != 1:
            at = values[1].at if values else operator.at
            several = ": put them in brackets, `[1, 2]`" if word in _SEVERAL else ""
            self.fault("seglang", at, f"`{name}` takes one value, not {len(values)}{several}")
            return False
        (value,) = values
        if word not in _SEVERAL:
            if value.form == "list":
                hint = "`IN` takes a list" if word == "is" else "`NOTIN` takes a list" if word == "is_not" else ""
                self.fault("seglang", value.at, f"`{name}` takes one value, not a list", hint)
            return value.form != "list"
        wanted = 2 if word == "between" else None
        if value.form != "list" or not value.items or (wanted and len(value.items) != wanted):
            found = f"a list of {len(value.items)}" if value.form == "list" else _shown(value)
            what = "a list of two values, such as `[18, 65]`" if wanted else "a list, such as `[1, 2]`"
            self.fault("seglang", value.at, f"`{name}` takes {what}, not {found}")
            return False
        return True

    def test(self, column: tuple[str, str, Kind], word: str, values: list[_Value]) -> dict[str, Any] | None:
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
            self.fault("wrong-type", values[1].at, f"`{values[1].text.upper()}` does not compare {_a(kind)}", takes)
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

    def operand(self, value: _Value, kind: Kind) -> str | None:
        """Read one value by the kind of its column; None when it does not fit."""
        if value.form == "list":
            self.fault("seglang", value.at, "a list in a list has no meaning here")
            return None
        if kind in {"date", "instant"} and value.form == "number":
            message = f"{value.text} may be days or a Unix time, and this is {_a(kind)}"
            hint = (
                f'write a date in quotes, `"{EXAMPLES[kind]}"`; days are written in YAML: `days_ago: {{at_least: 3}}`'
            )
            self.fault("unreadable-value", value.at, message, hint)
            return None
        if value.form == "word" and kind != "boolean":
            hint = f'did you mean `"{value.text}"`?'
            self.fault("seglang", value.at, f"the text {value.text!r} stands without quotes", hint)
            return None
        try:
            read_value(value.text, kind)
        except ValueError as error:
            self.fault("unreadable-value", value.at, str(error))
            return None
        return value.text


def _takes(word: str, kind: Kind) -> bool:
    positive = _POSITIVE.get(word, word)
    return kind in TAKES[_ON_LISTS.get(positive, positive) if kind == "list" else word]


def _joined(word: str, parts: list[_Part]) -> _Part:
    """Join parts by `all` or `any`; those that are joined by the same word already are taken in."""
    if len(parts) == 1:
        return parts[0]
    data: list[dict[str, Any]] = []
    places: dict[Place, int] = {}
    for part in parts:
        inner = part.data.get(word) if set(part.data) == {word} and () not in part.places else None
        for place, at in part.places.items():
            moved = (word, len(data) + int(place[1]), *place[2:]) if inner else (word, len(data), *place)
            places[moved] = at
        data += inner or [part.data]
    return _Part({word: data}, places)


def _negated(part: _Part) -> _Part:
    return _Part({"not": part.data}, {("not", *place): at for place, at in part.places.items()})


def _is_named(name: str, key: str) -> bool:
    # Of `Event...` and `Updated...` only the beginning of the name is documented.
    return name.startswith(key) if key in {"EVENT", "UPDATED"} else name == key


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _shown(value: _Value) -> str:
    return "a list" if value.form == "list" else _excerpt(value.text)


def _a(kind: Kind) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
