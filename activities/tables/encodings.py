"""How a file of text is written: its encoding, its delimiter, and whether each of its lines is a row."""

from __future__ import annotations

import codecs
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from workflows.errors import ImportRefused

CHUNK_BYTES = 1 << 20
HEAD_BYTES = 1 << 16
LONGEST_LINE_BYTES = 1 << 24
"""Of a line with quotes, or a cell, in a file whose lines are proven to be rows: others are read one by one."""
LARGEST_FILE_BYTES = 4_000_000_000
"""Largest file that is imported at once: the rows of one import are held in memory."""
DELIMITERS = ",;\t"

FOREIGN = {
    b"PK\x03\x04": "a spreadsheet or an archive: save the sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "compressed: unpack it first",
    b"PAR1": "a Parquet file: give it a name that ends in .parquet",
}
"""How files begin that are no text, and what to do with them."""

CP1252_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
"""Bytes that no character has in Windows-1252 (https://www.unicode.org/Public/MAPPINGS/VENDORS/MICSFT/WINDOWS/)."""


def head_of(path: Path) -> bytes:
    """Read how a file begins.

    Args:
        path: The file.

    Returns:
        Its first 64 KiB.

    Raises:
        ImportRefused: It is missing, empty, or of a format that is no text.
    """
    require_size(path)
    with file_readable(path), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.strip():
        raise ImportRefused(f"{path} is empty", hint="Its first line has to name the columns.")
    for magic, advice in FOREIGN.items():
        if head.startswith(magic):
            raise ImportRefused(f"{path} is {advice}")
    return head


def require_size(path: Path) -> None:
    """Refuse a file that is larger than an import may be.

    Raises:
        ImportRefused: It is too large, or missing.
    """
    with file_readable(path):
        size = path.stat().st_size
    if size > LARGEST_FILE_BYTES:
        raise ImportRefused(
            f"{path} has {size / 1e9:.1f} GB; one import takes at most {LARGEST_FILE_BYTES / 1e9:g} GB",
            hint="Nothing was read. Split the file and import each part: imports add up.",
        )


@contextmanager
def file_readable(path: Path) -> Iterator[None]:
    """Refuse a file that is missing, is a folder, or cannot be read or decoded.

    Args:
        path: The file, for the message.

    Raises:
        ImportRefused: In place of the operating system's error.
    """
    try:
        yield
    except OSError as error:
        raise ImportRefused(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ImportRefused(
            f"{path} cannot be read as {error.encoding}: {error.reason}", hint="Save the file as UTF-8."
        ) from error


@contextmanager
def file_unchanged(path: Path) -> Iterator[None]:
    """Refuse a file that is written while it is read: it is read several times, and has to be the same each time.

    Args:
        path: The file.

    Raises:
        ImportRefused: It is missing or no file; or it changed: in place of the errors that this may have led to.
    """
    _require_regular(path)

    def state() -> tuple[int, int, int]:
        with file_readable(path):
            found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    before = state()
    refused = ImportRefused(f"{path} was changed while it was read", hint="Import it once it is complete.")
    try:
        yield
    except Exception as error:
        if state() != before:
            raise refused from error
        raise
    if state() != before:
        raise refused


def _require_regular(path: Path) -> None:
    """Refuse what gives its rows once, such as a pipe, before it is opened: that would wait for somebody to write."""
    if str(path) == "/dev/stdin" or (str(path) == "-" and not path.exists()):
        what = "standard input"
    else:
        with file_readable(path):
            mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
    raise ImportRefused(
        f"{path} is {what}: an import needs a file, which it reads several times",
        hint="Save the rows as a file first, such as users.csv, and import that.",
    )


def encoding_of(path: Path, head: bytes) -> tuple[str, list[str]]:
    """Name a file's codec, reading the file once in bounded memory.

    Args:
        path: The file.
        head: How it begins.

    Returns:
        Python's name of the codec, which also removes a byte order mark, and what had to be assumed.

    Raises:
        ImportRefused: The file is no text, or in an encoding that cannot be told.
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", []
    if b"\0" in head:
        # Latin text in UTF-16 without a byte order mark: every other byte is zero.
        half = len(head) // 4
        if head[1::2].count(0) > half:
            return "utf-16-le", []
        if head[0::2].count(0) > half:
            return "utf-16-be", []
        raise ImportRefused(f"{path} is no text: it holds zero bytes", hint="Save it as CSV (UTF-8).")
    codec = "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"
    not_utf8, not_cp1252 = _first_faults(path)
    if not not_utf8:
        return codec, []
    if not_cp1252 or codec == "utf-8-sig":
        raise ImportRefused(
            f"{path}:{not_cp1252 or not_utf8}: the text is neither UTF-8 nor Windows-1252",
            hint="Save the file as UTF-8.",
        )
    return "cp1252", [f"{path.name} is not UTF-8 (line {not_utf8}) and was read as Windows-1252: check the accents"]


def _first_faults(path: Path) -> tuple[int, int]:
    """Give the first lines that are not UTF-8 and not Windows-1252, 0 where all are; UTF-8 is asked first."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    before = 0
    with file_readable(path), path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            # The usual chunk holds nothing but ASCII, which is told in a fraction of the time of decoding.
            if not chunk.isascii() or decoder.getstate()[0] or not chunk:
                try:
                    decoder.decode(chunk, final=not chunk)
                except UnicodeDecodeError as error:
                    return _line_of(path, before + error.start), _first_undefined(path)
            if not chunk:
                return 0, 0
            before += len(chunk)


def _first_undefined(path: Path) -> int:
    """Give the first line that holds a byte that Windows-1252 lacks, 0 where none does."""
    before = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if found := CP1252_UNDEFINED.search(chunk):
                return _line_of(path, before + found.start())
            before += len(chunk)
    return 0


def _line_of(path: Path, place: int) -> int:
    """Give the line, from 1, that a byte of a file stands on."""
    lines = 1
    with path.open("rb") as file:
        while place > 0 and (chunk := file.read(min(CHUNK_BYTES, place))):
            lines += chunk.count(b"\n")
            place -= len(chunk)
    return lines


def delimiter_of(head: str) -> str:
    """Choose the delimiter that the header line holds most of, outside quotes."""
    line = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", head, maxsplit=1)[0])
    return max(DELIMITERS, key=line.count)


class Uniform(NamedTuple):
    """A file in which each line is a row of the header's length, and none is blank."""

    lines: int
    """How many, with the header."""
    quoted: bool
    """Whether cells may stand in quotes; no quoted cell holds a line end."""


def uniform(path: Path, delimiter: str, width: int) -> Uniform | None:
    """Prove that each line of a file is a row of the header's length, reading it in bounded memory.

    Polars refuses a row that is too long only where it reads all columns, fills one that is too short without a word,
    and takes quotes that are not closed for text.

    Args:
        path: The file, in UTF-8.
        delimiter: Between cells.
        width: Cells of the header.

    Returns:
        What it is; null where it is not proven, or holds a zero byte.
    """
    with file_readable(path):
        if (lines := _unquoted_lines(path, delimiter.encode(), width)) is not None:
            return Uniform(lines, False)
        lines = _quoted_lines(path, delimiter.encode(), width)
        return None if lines is None else Uniform(lines, True)


def _unquoted_lines(path: Path, delimiter: bytes, width: int) -> int | None:
    """Count the lines of a file without quotes: without all but delimiters and line ends it has to be one pattern."""
    others = bytes(set(range(256)) - set(delimiter + b'"\0\n'))
    row = delimiter * (width - 1) + b"\n"
    left, last, lines, cell = b"", b"", 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            end = max(chunk.rfind(b"\n"), chunk.rfind(delimiter))
            cell = len(chunk) - 1 - end if end >= 0 else cell + len(chunk)
            # The cell that the chunk ends in goes on in the next one.
            if cell >= LONGEST_LINE_BYTES - CHUNK_BYTES:
                return None
            if chunk.endswith(b"\r"):
                chunk += file.read(1)  # it may be parted from its line feed
            # A carriage return by itself is a line end to Python only.
            if b"\r" in chunk and chunk.count(b"\r") != chunk.count(b"\r\n"):
                return None
            # In a file of one column nothing else tells a blank line from a row.
            if width == 1 and (b"\n\n" in last + chunk or b"\n\r" in last + chunk):
                return None
            left += chunk.translate(None, others)
            cut = left.rfind(b"\n") + 1
            whole, left = left[:cut], left[cut:]
            count = len(whole) // len(row)
            if whole != row * count:
                return None
            lines += count
            last = chunk[-1:]
    # The last line may lack its end; a lone cell leaves nothing of itself, unlike no line at all.
    unfinished = last not in (b"", b"\n")
    return lines + unfinished if left == (row[:-1] if unfinished else b"") else None


def _quoted_lines(path: Path, delimiter: bytes, width: int) -> int | None:
    """Count the lines of a file whose cells may stand in quotes (RFC 4180, section 2, without line ends in cells)."""
    plain = b'[^"\\r\\n\\0' + re.escape(delimiter) + b"]" + (b"++" if width == 1 else b"*+")
    cell = b'(?:"(?:[^"\\r\\n\\0]++|"")*+"|' + plain + b")"
    row = cell + (re.escape(delimiter) + cell) * (width - 1)
    rows, last_row = re.compile(b"(?:" + row + rb"\r?\n)*+"), re.compile(row)
    left, lines = b"", 0
    with path.open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        while chunk := file.read(CHUNK_BYTES):
            left += chunk
            cut = left.rfind(b"\n") + 1
            found = rows.match(left, 0, cut)
            # What is left goes on in the next chunk.
            if found is None or found.end() < cut or len(left) - cut >= LONGEST_LINE_BYTES - CHUNK_BYTES:
                return None
            lines += left.count(b"\n", 0, cut)
            left = left[cut:]
    if left and not last_row.fullmatch(left):
        return None
    return lines + bool(left)
