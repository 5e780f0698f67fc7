"""Prints the part of requirements.lock that running needs, without what only tests and linters need.

Example: `python workers/deploy/runtime_lock.py --with setuptools requirements.lock > runtime.lock`
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

PROJECT = "targeted-push (pyproject.toml)"
"""What the lock says of a package that the project itself asks for; that of the group `dev` says `:dev`."""


def runtime_part(lock: str, added: frozenset[str] = frozenset(), left_out: frozenset[str] = frozenset()) -> str:
    """Give the entries that the project needs to run.

    Args:
        lock: The text of requirements.lock: each entry says in comments which packages it is there for.
        added: Packages to take with it, and what they need.
        left_out: Packages not to take.

    Returns:
        The entries, with their hashes, in the lock's order.

    Raises:
        ValueError: The lock has no entry of a package that is named.
    """
    entries: dict[str, list[str]] = {}  # several of one name, where systems or Pythons differ
    for entry in re.split(r"\n(?=[A-Za-z0-9])", f"\n{lock}"):
        if "==" in entry.split("\n", 1)[0]:
            entries.setdefault(re.split(r"[=\[ ]", entry, maxsplit=1)[0], []).append(entry.strip("\n"))
    if unknown := (added | left_out) - set(entries):
        raise ValueError(f"the lock has no {', '.join(sorted(unknown))}: look at its names")
    asked_by = {name: _asked_by("\n".join(texts)) for name, texts in entries.items()}
    taken: set[str] = set()
    growing = True
    while growing:
        found = {
            name
            for name, askers in asked_by.items()
            if name not in left_out and (name in added or PROJECT in askers or taken & askers)
        }
        growing = found != taken
        taken = found
    return "\n".join(text for name, texts in entries.items() if name in taken for text in texts) + "\n"


def _asked_by(entry: str) -> set[str]:
    """Read the comments of an entry: `# via polars`, or one name a line below `# via`."""
    said = (line.strip().removeprefix("#").strip() for line in entry.splitlines() if line.strip().startswith("#"))
    return {line.removeprefix("via").strip() for line in said} - {""}


def main() -> None:
    """Read the arguments and print the part."""
    parser = argparse.ArgumentParser(description="Print the part of a lock that running needs.")
    parser.add_argument("lock", type=Path)
    parser.add_argument("--with", dest="added", action="append", default=[], metavar="NAME")
    parser.add_argument("--without", dest="left_out", action="append", default=[], metavar="NAME")
    given = parser.parse_args()
    print(runtime_part(given.lock.read_text(), frozenset(given.added), frozenset(given.left_out)), end="")


if __name__ == "__main__":
    main()
