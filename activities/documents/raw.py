"""A document as it was written: text everywhere, and the place of every value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from workflows.conditions import render_path
from workflows.errors import Fault
from workflows.scalars import nearest, quoted

DocumentPath: TypeAlias = tuple[str | int, ...]
"""The way from the top of a document to a value: keys of mappings, indexes of lists."""

Position: TypeAlias = tuple[int, int]
"""Line and column, both from 1."""

DocumentKind: TypeAlias = Literal["journey", "segment"]
"""What a document defines; also the key that says so and holds its name."""

MAX_QUOTED_CHARACTERS = 80
"""Longest piece of a document that a message quotes: more would bury what is said about it."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Where the parts of a document stand in its file."""

    values: dict[DocumentPath, Position] = field(default_factory=dict)
    """Where each value begins."""
    keys: dict[DocumentPath, Position] = field(default_factory=dict)
    """Where the key of each value in a mapping begins."""

    def locate(self, path: DocumentPath, *, key: bool = False) -> Position | tuple[None, None]:
        """Find a value, or the nearest one around it that the document has.

        Args:
            path: The way to the value; its last steps may be absent from the document.
            key: Find the value's key rather than the value; so it is always where the value begins on a later line.

        Returns:
            Line and column, or two nulls for a document without a file.
        """
        for length in range(len(path), -1, -1):
            named, begins = self.keys.get(path[:length]), self.values.get(path[:length])
            if named and (key or begins is None or begins[0] > named[0]):
                return named
            if begins:
                return begins
            key = True  # what encloses an absent value is known to its author by its key
        return None, None


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One document, before anything is known of its meaning."""

    kind: DocumentKind
    """Whether it defines a journey or a segment."""
    data: dict[str, Any]
    """Its content: every scalar as the text that was written, mappings as dicts, sequences as lists."""
    file: str = ""
    """The file as the person named it; empty for what came without one."""
    folder: Path | None = None
    """The folder that names of files in the document start from; null for what came without a file."""
    positions: Positions = field(default_factory=Positions, repr=False)
    """Where each value stands."""
    index: int = 0
    """The document's place among those of its file, from 0."""

    @property
    def name(self) -> str:
        """The name of the journey or segment; empty when the document gives none that could be one."""
        name = self.data.get(self.kind)
        return name if isinstance(name, str) else ""

    def locate(self, path: DocumentPath, *, key: bool = False) -> Position | tuple[None, None]:
        """Find a value, or the nearest one around it that the document has.

        Args:
            path: The way to the value; its last steps may be absent from the document.
            key: Find the value's key rather than the value; so it is always where the value begins on a later line.

        Returns:
            Line and column, both from 1, or two nulls for a document without a file.
        """
        return self.positions.locate(path, key=key)

    def locate_text(self, path: str) -> Position | tuple[None, None]:
        """Find a value by the way as faults write it.

        Args:
            path: Text such as `elements.loyal.match.all[0]`.

        Returns:
            Line and column of the value, or of the nearest one around it that the document has.
        """
        return self.locate(self.path_of(path))

    def path_of(self, path: str) -> DocumentPath:
        """Read a way through the document from its text, which only the document itself makes unambiguous.

        Args:
            path: Text such as `elements.loyal.match.all[0]`.

        Returns:
            The steps, as far as the document has them and one more where it does not.
        """
        steps: DocumentPath = ()
        here: Any = self.data
        while path:
            texts: dict[str, str | int] = {}
            if isinstance(here, dict):
                texts = {f".{key}" if steps else key: key for key in here if key}
            elif isinstance(here, list):
                texts = {f"[{index}]": index for index in range(len(here))}
            # The longest key wins, as a key may hold a full stop.
            found = max((text for text in texts if _begins(path, text)), key=len, default=None)
            if found is None:
                return (*steps, path.removeprefix("."))
            steps, here, path = (*steps, texts[found]), here[texts[found]], path[len(found) :]
        return steps

    def fault(self, path: DocumentPath, code: str, message: str, hint: str = "", *, key: bool = False) -> Fault:
        """Word a fault of this document, with its place.

        Args:
            path: The way to the value that is wrong.
            code: What kind of fault, in kebab-case.
            message: What is wrong, quoting the value.
            hint: What to do about it.
            key: Point at the value's key rather than at the value.

        Returns:
            The fault.
        """
        line, column = self.locate(path, key=key)
        return Fault(
            code=code,
            message=message,
            path=render_path(path),
            hint=hint,
            file=self.file or None,
            line=line,
            column=column,
        )


def excerpt(value: object) -> str:
    """Quote a piece of a document for a message.

    Args:
        value: Usually the text that was written.

    Returns:
        Its literal, on one line and at most 80 characters long.
    """
    text = repr(value)
    if len(text) <= MAX_QUOTED_CHARACTERS:
        return text
    end = text[-1]
    return f"{text[: MAX_QUOTED_CHARACTERS - 4]}...{end}"


def suggestion(word: str, allowed: Iterable[str], label: str = "allowed here") -> str:
    """Word the hint that goes with a name nobody knows.

    Args:
        word: What was written.
        allowed: What could have been, in the order to list it.
        label: What the list is a list of.

    Returns:
        The nearest name as a question, if one is near, and the list.
    """
    names = list(allowed)
    near = nearest(word, names)[:1]
    meant = f"did you mean {quoted(near)}? " if near else ""
    return f"{meant}{label}: {quoted(names)}" if names else meant.rstrip()


def _begins(path: str, step: str) -> bool:
    return path.startswith(step) and path[len(step) : len(step) + 1] in ("", ".", "[")
