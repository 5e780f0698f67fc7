r"""The syntax of Pushwoosh's segment expressions: `T("City", eq, "Tokyo") * T("Age", gte, 18)`.

```
expression = term { "+" term }                              union
term       = part { "*" part | "\" part }                   intersection, subtraction
part       = "(" expression ")" | T("Tag", OPERATOR, value)
value      = "text" | 18 | 2.5 | true | [value, ...]
```

Which of `+`, `*` and `\` binds closer is not documented. Here `*` and `\` bind closer than `+`, and each is read from
left to right: `A + B \ C * D` is `A + ((B \ C) * D)`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from workflows.errors import Fault

DEPTH_LIMIT = 50
"""Deepest nesting of parentheses and lists."""

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

Form: TypeAlias = Literal["text", "number", "word", "list"]


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class Value:
    """What stands between two commas."""

    form: Form
    text: str
    at: int
    items: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Call:
    """A condition as it is written, `T(...)` or `A(...).tags(...)`: its names, and the values of the first."""

    chain: tuple[str, ...]
    values: list[Value]
    at: int


@dataclass(frozen=True)
class Joined:
    """A union or an intersection."""

    word: Literal["any", "all"]
    parts: list[Part]


@dataclass(frozen=True)
class Negated:
    """What is taken from an intersection."""

    part: Part


Part: TypeAlias = Call | Joined | Negated


class _Stop(Exception):
    """Nothing after this place can be read."""


class Parser:
    """Reads an expression, and gathers its faults.

    Args:
        text: The expression.

    Attributes:
        faults: What was found wrong.
        calls: The conditions that were read, in order: also where nothing after them can be.
    """

    def __init__(self, text: str) -> None:
        self.faults: list[Fault] = []
        self.calls: list[Call] = []
        self._text = text
        self._tokens: list[_Token] = []
        self._next = 0

    def position(self, at: int) -> tuple[int, int]:
        """Give the line and column of a place in the text."""
        before = self._text[:at]
        return before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1

    def fault(self, code: str, at: int, message: str, hint: str = "") -> None:
        """Note a fault at a place in the text."""
        line, column = self.position(at)
        self.faults.append(Fault(code=code, message=message, hint=hint, line=line, column=column))

    def _stop(self, at: int, message: str, hint: str = "") -> _Stop:
        self.fault("seglang", at, message, hint)
        return _Stop()

    def whole(self) -> Part | None:
        """Read the whole expression; None when it cannot be, and the faults say why."""
        try:
            self._tokens = self._split()
            part = self._expression(0)
            if (token := self._peek()).kind != "end":
                raise self._unexpected(token, "`*`, `+` or `\\` between two conditions")
        except _Stop:
            return None
        return part

    def _split(self) -> list[_Token]:
        """Split the text into tokens, the last of which is its end."""
        for at, letter in enumerate(self._text):
            if "\ud800" <= letter <= "\udfff":
                raise self._stop(at, f"the expression holds bytes that are no text: {letter!r}", "write it in UTF-8")
        tokens = []
        for match in _TOKEN.finditer(self._text):
            kind, text = str(match.lastgroup), match.group()
            if kind == "open":
                raise self._stop(match.start(), f"the text {excerpt(text)} does not end: its quote is not closed")
            if kind == "other":
                raise self._stop(
                    match.start(), f"{text!r} cannot stand here", "two conditions are joined by `*`, `+`, `\\`"
                )
            if kind != "space":
                tokens.append(_Token(kind, text, match.start()))
        return [*tokens, _Token("end", "", len(self._text))]

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token

    def _accept(self, *signs: str) -> _Token | None:
        """Take the next token if it is one of some signs."""
        token = self._peek()
        return self._take() if token.kind == "sign" and token.text in signs else None

    def _expect(self, sign: str, wanted: str) -> None:
        if not self._accept(sign):
            raise self._unexpected(self._peek(), wanted)

    def _unexpected(self, token: _Token, wanted: str) -> _Stop:
        if token.kind == "end":
            return self._stop(token.at, f"the expression ends where {wanted} is expected")
        return self._stop(token.at, f"{excerpt(token.text)} cannot stand here: {wanted} is expected")

    def _expression(self, depth: int) -> Part:
        """Read a union."""
        parts = [self._term(depth)]
        while self._accept("+"):
            parts.append(self._term(depth))
        return Joined("any", parts) if len(parts) > 1 else parts[0]

    def _term(self, depth: int) -> Part:
        """Read an intersection, and what is taken from it."""
        parts = [self._part(depth)]
        while sign := self._accept("*", "\\"):
            part = self._part(depth)
            parts.append(part if sign.text == "*" else Negated(part))
        return Joined("all", parts) if len(parts) > 1 else parts[0]

    def _part(self, depth: int) -> Part:
        """Read a condition, or an expression in parentheses."""
        begun = self._peek()
        if self._accept("("):
            if depth >= DEPTH_LIMIT:
                raise self._stop(begun.at, f"parentheses are nested over {DEPTH_LIMIT} deep")
            part = self._expression(depth + 1)
            self._expect(")", "`)`")
            return part
        if begun.kind != "word":
            raise self._unexpected(begun, 'a condition such as `T("City", eq, "Tokyo")`')
        self._take()
        self._expect("(", "`(` after the condition's name")
        values = self._values(")", 0)
        chain = [begun.text]
        while self._accept("."):
            chain.append(self._take().text)
            self._expect("(", "`(`")
            self._values(")", 0)
        call = Call(tuple(chain), values, begun.at)
        self.calls.append(call)
        return call

    def _values(self, closing: str, depth: int) -> list[Value]:
        """Read values up to a closing sign."""
        found: list[Value] = []
        while not self._accept(closing):
            if found:
                self._expect(",", f"`,` or `{closing}`")
            found.append(self._value(depth))
        return found

    def _value(self, depth: int) -> Value:
        token = self._take()
        if token.kind == "text":
            return Value("text", self._unescaped(token), token.at)
        if token.kind == "number":
            return Value("number", token.text, token.at)
        if token.kind == "word":
            words = [token.text]
            while self._peek().kind == "word":  # `IS EMPTY`
                words.append(self._take().text)
            return Value("word", " ".join(words), token.at)
        if token.kind == "sign" and token.text == "[":
            if depth >= DEPTH_LIMIT:
                raise self._stop(token.at, f"lists are nested over {DEPTH_LIMIT} deep")
            return Value("list", "[...]", token.at, tuple(self._values("]", depth + 1)))
        raise self._unexpected(token, 'a value such as `"Tokyo"`, `18` or `[1, 2]`')

    def _unescaped(self, token: _Token) -> str:
        """Take quotes and escapes off a text."""

        def plain(match: re.Match[str]) -> str:
            code, letter = match.groups()
            if code:
                return chr(int(code, 16))
            if letter in "\"'\\/":
                return str(letter)
            if letter not in "bfnrt":
                at = token.at + 1 + match.start()
                raise self._stop(at, f"{match.group()!r} is no escape", 'write `\\\\` for `\\`, and `\\"` for `"`')
            return str(json.loads(f'"\\{letter}"'))

        text = _ESCAPE.sub(plain, token.text[1:-1])
        try:
            # An escaped letter outside the first plane is written as a pair of surrogates.
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._stop(token.at, f"{excerpt(token.text)} holds half of a letter") from None


def excerpt(text: str) -> str:
    """Quote what somebody wrote, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
