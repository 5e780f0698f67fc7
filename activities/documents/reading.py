"""Reads the documents that people write, in YAML or JSON, and words what is wrong with them.

```
read_documents(path)   files and folders  ┐
read_text(text, name)  one text           ├─> RawDocument: all text, every value with its line and column
raw_document(data)     data sent by code  ┘
faults_of(error, raw)  what pydantic refused, in our words and at its place in the file
```
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO, Literal

from activities.documents.json_text import parse_json
from activities.documents.raw import DocumentKind, DocumentPath, RawDocument, excerpt
from activities.documents.wording import faults_of
from activities.documents.yaml_text import MAX_DEPTH, Tree, parse_yaml
from workflows.errors import DefinitionError, Fault
from workflows.scalars import nearest

__all__ = [
    "MAX_DEPTH",
    "MAX_FILE_BYTES",
    "DocumentKind",
    "DocumentPath",
    "RawDocument",
    "faults_of",
    "file_text",
    "raw_document",
    "read_documents",
    "read_text",
    "stream_text",
]

MAX_FILE_BYTES = 5_000_000
"""Largest file read as a document: it is held in memory several times over, and lists of users belong in CSV files."""

SUFFIXES = (".yaml", ".yml", ".json")
"""What a document's file is called; `.json` is read as JSON, anything else as YAML."""


def read_documents(path: str | Path) -> list[RawDocument]:
    """Read every document of a file, or of all files in a folder.

    Args:
        path: A file; or a folder, of which every `*.yaml`, `*.yml` and `*.json` is read in the order of their names,
            hidden files and sub-folders left out.

    Returns:
        The documents, in the order in which they stand.

    Raises:
        DefinitionError: Nothing there can be read as documents; holds the faults of all files.
    """
    documents: list[RawDocument] = []
    faults: list[Fault] = []
    for file in _files_of(Path(path)):
        try:
            form: Literal["yaml", "json"] = "json" if file.suffix.lower() == ".json" else "yaml"
            documents += read_text(file_text(file), str(file), form=form, folder=file.parent)
        except DefinitionError as error:
            faults += error.faults
    if faults:
        raise DefinitionError(faults)
    return documents


def read_text(
    text: str, name: str, *, form: Literal["yaml", "json"] = "yaml", folder: Path | None = None
) -> list[RawDocument]:
    """Read every document of a text.

    Args:
        text: One or several documents; in YAML, `---` stands between two.
        name: What faults call the text: its file as the person named it.
        form: The language.
        folder: The folder that names of files in the documents start from.

    Returns:
        The documents, in the order in which they stand; empty ones are left out.

    Raises:
        DefinitionError: The text cannot be read as documents; holds every fault found.
    """
    text = text.removeprefix("\ufeff")
    trees, faults = parse_json(text, name or None) if form == "json" else parse_yaml(text, name or None)
    documents: list[RawDocument] = []
    for index, tree in enumerate(trees):
        kind = _kind_of(tree, name or None)
        if isinstance(kind, Fault):
            faults.append(kind)
        else:
            documents.append(RawDocument(kind, tree.data, name, folder, tree.positions, index))
    if not trees and not faults:
        hint = "a document has the key `journey` or `segment`"
        faults.append(Fault(code="no-document", message="the file holds no document", hint=hint, file=name or None))
    if faults:
        raise DefinitionError(sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0)))
    return documents


def file_text(file: Path) -> str:
    """Read the text of a document's file.

    Args:
        file: The file, of UTF-8 with or without a byte order mark.

    Returns:
        Its text.

    Raises:
        DefinitionError: There is no such file, it is too large, or it is no UTF-8.
    """
    try:
        if not file.exists():
            raise _refused("file-not-found", file, f"no such file: {str(file)!r}", "check the name and the folder")
        if not file.is_file():
            hint = "name a .yaml, .yml or .json file, or a folder"
            raise _refused("not-a-file", file, f"not a file: {str(file)!r}", hint)
        with file.open("rb") as stream:
            return stream_text(stream, str(file))
    except OSError as error:
        raise _unreadable(file, error) from error


def stream_text(stream: BinaryIO, name: str) -> str:
    """Read the text of documents to its end.

    Args:
        stream: UTF-8, with or without a byte order mark.
        name: What faults call it.

    Returns:
        The text.

    Raises:
        DefinitionError: It is too large, or no UTF-8.
    """
    content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        hint = "import long lists of users from a CSV file, and name it in a segment"
        raise _refused("file-too-large", name, f"larger than {MAX_FILE_BYTES // 1_000_000} MB", hint)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8: the byte 0x{content[error.start]:02x} on line {line}"
        raise _refused("not-utf-8", name, message, "save the text as UTF-8", line) from error


def raw_document(definition: Any) -> RawDocument:
    """Take a document that was sent as data, where a file would have been read.

    Args:
        definition: JSON data: a client's numbers and booleans become the texts that a file would hold.

    Returns:
        The document, without a file, a folder and places.

    Raises:
        DefinitionError: It is no document; holds every fault found.
    """
    try:
        text = json.dumps(definition, default=str)
    except (RecursionError, ValueError, TypeError) as error:
        raise DefinitionError(
            [Fault(code="not-a-document", message=f"the definition is not JSON data: {error}")]
        ) from error
    trees, faults = parse_json(text, None)
    # Places in a text that nobody wrote would mislead.
    faults = [fault.model_copy(update={"line": None, "column": None}) for fault in faults]
    kind = _kind_of(Tree(trees[0].data), None) if trees else None
    if isinstance(kind, Fault):
        faults.append(kind)
    if faults or kind is None or isinstance(kind, Fault):
        raise DefinitionError(faults)
    return RawDocument(kind, trees[0].data)


def _kind_of(tree: Tree, file: str | None) -> DocumentKind | Fault:
    """Tell what a document defines, by the key that holds its name."""
    if isinstance(tree.data, dict) and "journey" in tree.data:
        return "journey"
    if isinstance(tree.data, dict) and "segment" in tree.data:
        return "segment"
    line, column = tree.positions.locate(())
    hint = "a document has the key `journey` or `segment`, which holds its name"
    if isinstance(tree.data, dict):
        found = (
            f"its keys are {', '.join(excerpt(key) for key in list(tree.data)[:12])}" if tree.data else "it has no keys"
        )
        message = f"neither a journey nor a segment: {found}"
        for key in tree.data:
            if near := nearest(key, ("journey", "segment")):
                hint = f"did you mean `{near[0]}` in place of {excerpt(key)}?"
                line, column = tree.positions.locate((key,), key=True)
                break
    else:
        message = f"a document is a mapping, not {'a list' if isinstance(tree.data, list) else excerpt(tree.data)}"
    return Fault(code="unknown-document", message=message, hint=hint, file=file, line=line, column=column)


def _refused(code: str, file: Path | str, message: str, hint: str = "", line: int | None = None) -> DefinitionError:
    return DefinitionError([Fault(code=code, message=message, hint=hint, file=str(file), line=line)])


def _unreadable(file: Path, error: OSError) -> DefinitionError:
    return _refused("unreadable-file", file, f"{str(file)!r} cannot be read: {error.strerror or error}")


def _files_of(path: Path) -> list[Path]:
    """List the files to read: the file itself, or those of a folder."""
    try:
        if not path.is_dir():
            return [path]
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
    except OSError as error:
        raise _unreadable(path, error) from error
    if not files:
        message = f"no documents in the folder {str(path)!r}"
        raise _refused("no-document", path, message, "it holds no .yaml, .yml or .json file")
    return files
