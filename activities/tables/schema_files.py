"""A person's own word on the types of columns: a small YAML file, given beside the file that is imported."""

from __future__ import annotations

from pathlib import Path

from activities.documents.yaml_text import parse_yaml
from activities.tables.encodings import file_readable
from activities.tables.schema import KINDS, Kind
from workflows.errors import DefinitionError, Fault, ImportRefused
from workflows.scalars import nearest

EXAMPLE = "write `zip: string`, one column a line"


def read_schema(path: Path) -> dict[str, Kind]:
    """Read the types of columns.

    Args:
        path: YAML: `{columns: {app_version: version, zip: string}}`, or the columns alone.

    Returns:
        Column to kind.

    Raises:
        ImportRefused: The file cannot be read, or names no column.
        DefinitionError: It is no YAML, or a type is unknown: with every fault and its line.
    """
    with file_readable(path):
        text = path.read_text(encoding="utf-8-sig")
    trees, faults = parse_yaml(text, str(path))
    if faults:
        raise DefinitionError(faults)
    if len(trees) != 1 or not isinstance(trees[0].data, dict):
        raise ImportRefused(f"{path} holds no types of columns", hint=EXAMPLE)
    data = trees[0].data
    # A column may be called `columns` too: then its type is a text.
    wrapped = isinstance(data.get("columns"), dict)
    columns = data["columns"] if wrapped else data
    base: tuple[str, ...] = ("columns",) if wrapped else ()
    kinds: dict[str, Kind] = {kind: kind for kind in KINDS}
    found: dict[str, Kind] = {}
    beside = sorted(set(data) - {"columns"}) if wrapped else []
    wrong = [
        _fault(path, trees[0].positions.locate((name,), key=True), name, "beside `columns` nothing else is read")
        for name in beside
    ]
    for name, said in columns.items():
        place = trees[0].positions.locate((*base, name))
        kind = kinds.get(said.strip().lower()) if isinstance(said, str) else None
        if kind is not None:
            found[name] = kind
            continue
        near = nearest(said, KINDS) if isinstance(said, str) else []
        hint = f"did you mean `{near[0]}`?" if near else f"the types are: {', '.join(KINDS)}"
        wrong.append(_fault(path, place, ".".join((*base, name)), f"{said!r} is no type", hint))
    if wrong:
        raise DefinitionError(wrong)
    if not found:
        raise ImportRefused(f"{path} holds no types of columns", hint=EXAMPLE)
    return found


def _fault(path: Path, place: tuple[int | None, int | None], at: str, message: str, hint: str = "") -> Fault:
    return Fault(
        code="wrong-schema", message=message, hint=hint, path=at, file=str(path), line=place[0], column=place[1]
    )
