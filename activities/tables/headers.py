"""What the columns of a file may be called, and which of them it has to have: all that is wrong is told together."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from workflows.errors import ImportRefused

COLUMN_LIMIT = 1_000
"""Most columns of a file: each row pays for all of them, in memory and on disk."""

OF_DELTA = "__delta_rs_"
"""How the names begin that Delta's merge gives to tables and columns of its own (deltalake 1.6)."""

TWICE = "Give each column a name of its own."


def check_names(path: Path, names: Iterable[str]) -> None:
    """Refuse a header that names a column twice, or in characters that cannot be typed.

    Args:
        path: The file, for the message.
        names: The column names; an empty one is passed over.

    Raises:
        ImportRefused: Names cannot be used, each of which is told, or there are too many.
    """
    if len(given := list(names)) > COLUMN_LIMIT:
        raise ImportRefused(
            f"{path}: the header names {len(given):,} columns; a file may have at most {COLUMN_LIMIT}",
            hint="Import the columns that journeys use.",
        )
    seen: dict[str, str] = {}
    found: dict[str, ImportRefused] = {}
    for name in filter(None, given):
        if wrong := unusable(name):
            found[name] = ImportRefused(f"{path}: {wrong}", hint="Rename the column.")
        elif (twin := seen.setdefault(name.lower(), name)) != name:
            found[name] = ImportRefused(
                f"{path}: the header names {twin!r} and {name!r}, which differ only in case", hint=TWICE
            )
        elif given.count(name) > 1:
            found[name] = ImportRefused(f"{path}: the header names {name!r} twice", hint=TWICE)
    if found:
        raise ImportRefused.together(list(found.values()))


def unusable(name: str) -> str:
    """Say why a column of a table cannot be called so; empty when it can."""
    if odd := next((character for character in name if not character.isprintable()), ""):
        # Control characters have no name (Unicode 4.8), and a no-break space looks like any other.
        known = unicodedata.name(odd, "a control character")
        return f"the column name {name!r} holds {known} (U+{ord(odd):04X})"
    if name.lower().startswith(OF_DELTA):
        return f"the column name {name!r} begins with {OF_DELTA!r}, as names of the table format's own do"
    # Polars takes such a name for a pattern that stands for several columns.
    if name == "*" or (name.startswith("^") and name.endswith("$")):
        return f"{name!r} cannot be the name of a column"
    return ""


def require_columns(path: Path, found: list[str], required: Iterable[str]) -> None:
    """Refuse a file that lacks columns.

    Args:
        path: The file, for the message.
        found: Its columns.
        required: The columns it has to have.

    Raises:
        ImportRefused: Some are missing; the message quotes the header and names the nearest column to each.
    """
    lower = {column.lower(): column for column in found}
    missing = []
    for name in dict.fromkeys(required):
        if name in found:
            continue
        near = get_close_matches(name, lower, n=1, cutoff=0.5)
        missing.append(
            ImportRefused(
                f"{path}: there is no column {name!r}; the header is: {', '.join(map(repr, found))}",
                hint=f"Rename {lower[near[0]]!r} to {name!r}, if that is what it holds."
                if near
                else "The first line of the file has to name the columns.",
            )
        )
    if missing:
        raise ImportRefused.together(missing)
