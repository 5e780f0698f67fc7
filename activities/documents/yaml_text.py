"""YAML read as text: a parser of the plain part of YAML, in which every scalar is what it says.

The values are built here from the parser's events, because YAML's own rules turn `22:00` into 1320, `no` into false
and `1.10` into 1.1. What makes a document mean more than it says (anchors, aliases, tags, merge keys, a key given
twice) is refused, each with its place, and reading goes on to find the next fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from activities.documents.raw import DocumentPath, Position, Positions, excerpt
from workflows.conditions import render_path
from workflows.errors import Fault
from workflows.scalars import Unwritten

MAX_DEPTH = 60
"""Deepest nesting of mappings and lists: no journey needs a tenth of it, and what reads documents is recursive."""

MAX_SYNTAX_FAULTS = 20
"""Most errors of syntax told of one text: after each, reading begins anew with the next document."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same language; the compiled one is 18 times as fast

_WRONG_CHARACTERS = re.compile("[\x00\ud800-\udfff]")
"""What no text may hold: NUL is refused by PostgreSQL, half a surrogate pair cannot be written as UTF-8."""

_NOT_IN_YAML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters a YAML file may not hold as they are. https://yaml.org/spec/1.1/#c-printable"""

_NEXT_DOCUMENT = re.compile(r"^---(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tree:
    """One document of a file: what it says, and where."""

    data: Any
    """Dicts, lists and texts."""
    positions: Positions = field(default_factory=Positions)
    """Where each value stands."""


class _TooDeep(Exception):
    """The rest of the file is not read: its nesting is an attack or an accident."""


def wrong_character(text: str) -> str | None:
    """Find a character that no text of a document may hold.

    Args:
        text: Any text.

    Returns:
        The first such character, written as an escape, or null.
    """
    found = _WRONG_CHARACTERS.search(text)
    return f"\\u{ord(found[0]):04x}" if found else None


def parse_yaml(text: str, file: str | None) -> tuple[list[Tree], list[Fault]]:
    """Read all documents of a YAML text.

    Args:
        text: The text.
        file: Its name, for the faults.

    Returns:
        The documents that are not empty, and every fault found; after an error of syntax, reading goes on with the
        next document.
    """
    unwritable = _NOT_IN_YAML.search(text)
    if unwritable is not None:
        line = text.count("\n", 0, unwritable.start()) + 1
        column = unwritable.start() - text.rfind("\n", 0, unwritable.start())
        message = f"the character {unwritable[0]!r} is not allowed in a YAML file"
        hint = "remove it, or write it as an escape in double quotes"
        return [], [Fault(code="wrong-character", message=message, hint=hint, file=file, line=line, column=column)]
    trees: list[Tree] = []
    faults: list[Fault] = []
    start = 0
    while True:
        # Blank lines in place of what was read before: so all places are those in the whole text.
        rest = "\n" * text.count("\n", 0, start) + text[start:]
        try:
            for tree in _Builder(yaml.parse(rest, Loader=_Loader), file, faults).documents():
                trees.append(tree)
            break
        except _TooDeep:
            break
        except yaml.MarkedYAMLError as error:
            fault = _syntax_fault(error, text, file)
            # `title: {{ name }} hello` is a wrong key and then an error of syntax: the first says what to do.
            if not any(known.code == "wrong-key" and known.line == fault.line for known in faults):
                faults.append(fault)
            following = _next_document(text, error, start)
            if following is None or sum(known.code == "syntax" for known in faults) >= MAX_SYNTAX_FAULTS:
                break
            start = following
    return trees, faults


def _next_document(text: str, error: yaml.MarkedYAMLError, start: int) -> int | None:
    """Find where reading can go on after an error of syntax: no value can hold a line that begins with `---`."""
    line = error.problem_mark.line if error.problem_mark else 0
    line_start = 0
    for _ in range(line):
        line_start = text.find("\n", line_start) + 1
    found = _NEXT_DOCUMENT.search(text, max(line_start, start + 1))
    return found.start() if found else None


class _Builder:
    """Builds documents from the events of one parse."""

    def __init__(self, events: Iterator[Any], file: str | None, faults: list[Fault]) -> None:
        self._events = events
        self._file = file
        self._faults = faults
        self._positions = Positions()

    def documents(self) -> Iterator[Tree]:
        for event in self._events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            self._positions = Positions()
            data = self._node(next(self._events), ())
            if data != "":
                yield Tree(data, self._positions)

    def _node(self, event: Any, path: DocumentPath, *, kept: bool = True) -> Any:
        """Read the value that begins with an event; `kept` is false for what is read only to find its faults."""
        if kept:
            self._positions.values[path] = _position(event)
        self._refuse_anchor_and_tag(event, path)
        if isinstance(event, yaml.AliasEvent):
            hint = "write the value again, or put the text in quotes if it begins with *"
            self._fault(event, path, "alias", f"an alias is not allowed: '*{event.anchor}'", hint)
            return f"*{event.anchor}"
        if isinstance(event, yaml.ScalarEvent):
            return self._text(event, path)
        if len(path) >= MAX_DEPTH:
            self._fault(event, path, "too-deep", f"nested deeper than {MAX_DEPTH} levels", "use a saved segment")
            raise _TooDeep
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, kept)
        return self._mapping(path, kept)

    def _text(self, event: Any, path: DocumentPath) -> str:
        character = wrong_character(event.value)
        if character is not None:
            message = f"the character {character} is not allowed in a text: {excerpt(event.value)}"
            self._fault(event, path, "wrong-character", message, "write the character itself, not an escape")
        return str(event.value) if event.value or not event.implicit[0] else Unwritten()

    def _sequence(self, path: DocumentPath, kept: bool) -> list[Any]:
        items: list[Any] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, (*path, len(items)), kept=kept))
        return items

    def _mapping(self, path: DocumentPath, kept: bool) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, path)
            if key is None:
                self._node(next(self._events), (*path, "?"), kept=False)
                continue
            place = (*path, key)
            if key in mapping:
                line, column = self._positions.keys.get(place, (None, None))
                first = f", first on line {line}, column {column}" if line else ""
                self._fault(event, place, "duplicate-key", f"the key {excerpt(key)} is given twice{first}")
                self._node(next(self._events), place, kept=False)
                continue
            if kept:
                self._positions.keys[place] = _position(event)
            mapping[key] = self._node(next(self._events), place, kept=kept)
        return mapping

    def _key(self, event: Any, path: DocumentPath) -> str | None:
        """Read a key; null when it cannot be one, and its value is to be skipped."""
        if not isinstance(event, yaml.ScalarEvent):
            what = "mapping" if isinstance(event, yaml.MappingStartEvent) else "list"
            if isinstance(event, yaml.AliasEvent):
                what = "alias"
            hint = "put a text that begins with {{ in quotes" if getattr(event, "flow_style", False) else ""
            self._fault(event, path, "wrong-key", f"a key is a text, not a {what}".replace("a alias", "an alias"), hint)
            self._node(event, (*path, "?"), kept=False)
            return None
        self._refuse_anchor_and_tag(event, path)
        key = self._text(event, path)
        if key == "<<" and event.implicit[0]:
            self._fault(event, path, "merge-key", "a merge key is not allowed: '<<'", "write the keys out")
            return None
        return key

    def _refuse_anchor_and_tag(self, event: Any, path: DocumentPath) -> None:
        anchor, tag = event.anchor, getattr(event, "tag", None)
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            hint = "write the value wherever it is needed, or put the text in quotes if it begins with &"
            self._fault(event, path, "anchor", f"an anchor is not allowed: '&{anchor}'", hint)
        if tag is not None:
            written = tag.replace("tag:yaml.org,2002:", "!!")
            hint = "every value is read as text and typed by its field; put a text that begins with ! in quotes"
            self._fault(event, path, "tag", f"a tag is not allowed: {excerpt(written)}", hint)

    def _fault(self, event: Any, path: DocumentPath, code: str, message: str, hint: str = "") -> None:
        line, column = _position(event)
        where = render_path(path)
        self._faults.append(
            Fault(code=code, message=message, path=where, hint=hint, file=self._file, line=line, column=column)
        )


def _position(event: Any) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, file: str | None) -> Fault:
    """Word an error of syntax: what the parser says, the line it stopped at, and the usual cause."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.split("\n")
    written = lines[line] if line < len(lines) else ""
    problem = re.sub(
        r"^(expected|did not find).*(<block end>|expected key).*", "this line does not fit", error.problem or ""
    )
    seen = f", in {excerpt(written.strip())}" if written.strip() else ""
    return Fault(
        code="syntax",
        message=f"not YAML: {problem or 'it cannot be read'}{seen}",
        hint=_syntax_hint(error, written, column),
        file=file,
        line=line + 1,
        column=column + 1,
    )


def _syntax_hint(error: yaml.MarkedYAMLError, written: str, column: int) -> str:
    problem, context = error.problem or "", error.context or ""
    character = written[column : column + 1]
    opened = error.context_mark.line + 1 if error.context_mark else None
    if "\t" in written[: column + 1] and not written[:column].strip():
        return "indent with spaces: YAML allows no tabs"
    if re.search(r":\s+\{\{", written):
        return "put a text that begins with {{ in quotes"
    if "cannot start any token" in problem:
        return f"put a text that begins with {character} in quotes"
    if "quoted scalar" in context and "escape" in problem:
        return "inside double quotes write a backslash as \\\\, or use single quotes"
    if "quoted scalar" in context:
        return f"the quote that opens on line {opened} is not closed"
    if "flow" in context:
        return f"close the bracket that opens on line {opened}, and put a comma between its parts"
    if "mapping values" in problem:
        return "put a text that holds ': ' in quotes, and indent the keys of one mapping alike"
    if "sequence entries" in problem:
        return "begin a list on the line after its key"
    return "check the quotes and the indentation of this line and the one above"
