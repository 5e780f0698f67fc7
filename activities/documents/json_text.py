"""JSON read as text: the same documents as in YAML, in strict JSON."""

from __future__ import annotations

import json
from typing import Any

from activities.documents.raw import DocumentPath, Positions, excerpt
from activities.documents.yaml_text import MAX_DEPTH, Tree, parse_yaml, wrong_character
from workflows.conditions import render_path
from workflows.errors import Fault


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written, a key given twice included."""


class _Constant(str):
    """A number that JSON does not have: NaN, Infinity."""

    __slots__ = ()


def parse_json(text: str, file: str | None) -> tuple[list[Tree], list[Fault]]:
    """Read the one document of a JSON text.

    Args:
        text: The text.
        file: Its name, for the faults.

    Returns:
        The document, or none for a text of blanks, and every fault found.
    """
    if not text.strip():
        return [], []
    try:
        # Numbers stay as they were written: 3.10 is a version, 007 never was a number.
        written = json.loads(text, object_pairs_hook=_Pairs, parse_float=str, parse_int=str, parse_constant=_Constant)
    except json.JSONDecodeError as error:
        return [], [_syntax_fault(error, text, file)]
    except RecursionError:
        return [], [Fault(code="too-deep", message=f"nested deeper than {MAX_DEPTH} levels", file=file)]
    reader = _Reader(text, file)
    data = reader.value(written, ())
    return [Tree(data, reader.positions)], reader.faults


class _Reader:
    """Turns parsed JSON to texts, and finds what is wrong with it."""

    def __init__(self, text: str, file: str | None) -> None:
        # Strict JSON allows tabs only between its tokens, where YAML does not: a space moves nothing.
        trees, seen = parse_yaml(text.replace("\t", " "), file)
        readable = len(trees) == 1 and not any(fault.code == "syntax" for fault in seen)
        self.positions = trees[0].positions if readable else Positions()
        self._repeated = {fault.path: fault for fault in seen if readable and fault.code == "duplicate-key"}
        self._file = file
        self.faults: list[Fault] = []

    def value(self, written: Any, path: DocumentPath) -> Any:
        if isinstance(written, bool):
            return "true" if written else "false"
        if written is None:
            self._fault(path, "null", "null is not allowed", "leave the key out")
            return ""
        if isinstance(written, _Constant):
            self._fault(path, "wrong-value", f"{written} is not JSON", "write a number")
            return str(written)
        if isinstance(written, str):
            return self._text(written, path)
        if len(path) >= MAX_DEPTH:
            # Said once for each place: what is inside is not read any further.
            self._fault(path, "too-deep", f"nested deeper than {MAX_DEPTH} levels", "use a saved segment")
            return ""
        if isinstance(written, _Pairs):
            return self._mapping(written, path)
        return [self.value(item, (*path, index)) for index, item in enumerate(written)]

    def _mapping(self, written: _Pairs, path: DocumentPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, item in written:
            place = (*path, key)
            self._text(key, place)
            if key in mapping:
                located = self._repeated.get(render_path(place))
                message = f"the key {excerpt(key)} is given twice"
                self.faults.append(
                    located or Fault(code="duplicate-key", message=message, path=render_path(place), file=self._file)
                )
                continue
            mapping[key] = self.value(item, place)
        return mapping

    def _text(self, text: str, path: DocumentPath) -> str:
        character = wrong_character(text)
        if character is not None:
            message = f"the character {character} is not allowed in a text: {excerpt(text)}"
            self._fault(path, "wrong-character", message, "remove it")
        return text

    def _fault(self, path: DocumentPath, code: str, message: str, hint: str) -> None:
        line, column = self.positions.locate(path)
        where = render_path(path)
        self.faults.append(
            Fault(code=code, message=message, path=where, hint=hint, file=self._file, line=line, column=column)
        )


def _syntax_fault(error: json.JSONDecodeError, text: str, file: str | None) -> Fault:
    lines = text.split("\n")
    written = lines[error.lineno - 1].strip() if error.lineno <= len(lines) else ""
    problem = error.msg[:1].lower() + error.msg[1:]
    hint = ""
    if "property name" in problem or "'}'" in problem or "illegal trailing comma" in problem:
        hint = "JSON wants double quotes around keys, and no comma after the last part"
    elif "delimiter" in problem:
        hint = "put a comma between two parts, and close every bracket"
    elif "extra data" in problem:
        hint = "a JSON file holds one document; put several in a YAML file, with --- between them"
    return Fault(
        code="syntax",
        message=f"not JSON: {problem}, in {excerpt(written)}" if written else f"not JSON: {problem}",
        hint=hint,
        file=file,
        line=error.lineno,
        column=error.colno,
    )
