"""People's files: encodings, delimiters, quotes, lines, and files that have types."""

from __future__ import annotations

import codecs
import csv
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.tables import encodings, reading
from activities.tables.reading import Sheet, read_delimited, survey
from activities.tables.schema import DTYPES
from activities.tables.typed_files import read_ndjson, read_parquet
from workflows.errors import ImportRefused


def written(folder: Path, data: bytes | str, name: str = "file.csv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def delimited(path: Path) -> Sheet:
    return read_delimited(path, Path(mkdtemp(dir=path.parent)))


def rows(sheet: Sheet) -> list[tuple[object, ...]]:
    found = sheet.scan.collect()
    assert found.height == sheet.height
    return [tuple(cell or None for cell in row) for row in found.iter_rows()]


CELLS = [
    "a",
    "b",
    ",",
    "\n",
    "\r\n",
    '"a"',
    '"a,b"',
    '"a""b"',
    '""',
    '"',
    " ",
    '"é"',
    '"\n"',
    "a,b\n",
    '"a","b"\r\n',
    ",\n",
]

TEXT = "user_id,name\nu1,Zoé\nu2,Łukasz 💌\n"
LATIN = "user_id,name\nu1,Zoé\nu2,Jürgen – “Œuvre” €\n"


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (TEXT, TEXT.encode()),
        (TEXT, codecs.BOM_UTF8 + TEXT.encode()),
        (TEXT, TEXT.encode("utf-16")),
        (TEXT, codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")),
        (LATIN, LATIN.encode("utf-16-le")),
        (LATIN, LATIN.encode("utf-16-be")),
        (LATIN, LATIN.encode("cp1252")),
    ],
    ids=["utf-8", "utf-8 with mark", "utf-16", "utf-16-be", "utf-16-le unmarked", "utf-16-be unmarked", "windows-1252"],
)
def test_encodings(tmp_path: Path, text: str, data: bytes) -> None:
    """Every encoding that spreadsheets write gives the same text, and a guess is told."""
    sheet = delimited(written(tmp_path, data))
    expected = [line.split(",") for line in text.splitlines()]
    assert sheet.columns == expected[0]
    assert [list(row[1:]) for row in rows(sheet)] == expected[1:]
    guessed = data == LATIN.encode("cp1252")
    assert sheet.warnings == (
        ["file.csv is not UTF-8 (line 2) and was read as Windows-1252: check the accents"] if guessed else []
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quoted", [True, False])
def test_delimiters_line_ends_and_quotes(tmp_path: Path, delimiter: str, ending: str, quoted: bool) -> None:
    """Comma, semicolon and tab, with any line end, quoted or not, read alike and know their lines."""
    name = '"Zoé"' if quoted else "Zoé"
    lines = ["id", "name", "age"], ["u1", name, "1"], ["u2", "", "2"]
    path = written(tmp_path, ending.join(delimiter.join(line) for line in lines))
    found = survey(path)
    assert (found.rows, found.quoted) == ((None, False) if ending == "\r" else (2, quoted))
    assert rows(delimited(path)) == [(2, "u1", "Zoé", "1"), (3, "u2", None, "2")]


def test_lines_are_the_files_own(tmp_path: Path) -> None:
    """Quoted line breaks and blank lines move the lines of later rows, as an editor counts them."""
    path = written(tmp_path, 'id,note\n\nu1,"two\nlines, ""quoted"""\n\nu2,x\n\n')
    assert rows(delimited(path)) == [(3, "u1", 'two\nlines, "quoted"'), (6, "u2", "x")]


@pytest.mark.parametrize("quote", ["", '"'])
def test_rows_of_the_wrong_length_are_rejected(tmp_path: Path, quote: str) -> None:
    """A short and a long row are rejected with line, reason and text; the delimiters adding up deceives nobody."""
    path = written(tmp_path, f"a,b,c\n1,{quote}2{quote},3\n4,5\n6,7,8,9\n1,2,3\n")
    sheet = delimited(path)
    assert [row[0] for row in rows(sheet)] == [2, 5]
    assert sheet.rejects == [
        (3, "2 cells where the header has 3", "4,5"),
        (4, "4 cells where the header has 3", "6,7,8,9"),
    ]


def test_bad_quotes(tmp_path: Path) -> None:
    """A stray quote costs its row; one that is never closed refuses the file, naming the line it starts on."""
    sheet = delimited(written(tmp_path, 'a,b\n"x"y,1\nz,2\n'))
    assert rows(sheet) == [(3, "z", "2")]
    assert sheet.rejects[0][:2] == (2, "a quote inside a cell is not written twice")
    with pytest.raises(ImportRefused, match=r"file.csv:3: a quote opened in this row is never closed"):
        delimited(written(tmp_path, 'a,b\n1,2\n3,"4\n' + "5,6\n" * 99))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (b"PK\x03\x04 xlsx", "save the sheet as CSV"),
        (b"\x1f\x8b gz", "unpack it first"),
        (b"a,b\n1,\x00\x01\x02\n", "holds zero bytes"),
        (b"a,b\n1,\xff\x81\n", "file.csv:2: the text is neither UTF-8 nor Windows-1252"),
        ("id,plan,plan\n", "names 'plan' twice"),
        ("id,Plan,plan\n", "'Plan' and 'plan', which differ only in case"),
        ("a,a\n", "names 'a' twice"),
        ("id,,plan\n1,2,3\n", "column 2 has values and no name"),
        ('"id\tx",b\n', r"holds a control character \(U\+0009\)"),
        ("id,a\u00a0b\n", r"holds NO-BREAK SPACE \(U\+00A0\)"),
        ("id,a\u200bb\n", r"holds ZERO WIDTH SPACE \(U\+200B\)"),
        ("id,__delta_rs_source\n", "'__delta_rs_source' begins with '__delta_rs_'"),
        ("id,__Delta_rs_path\n", "'__Delta_rs_path' begins with '__delta_rs_'"),
        ('"id,b\n', "never closed"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, data: bytes | str, message: str) -> None:
    """What cannot be read is refused whole, with what is wrong."""
    with pytest.raises(ImportRefused, match=message):
        delimited(written(tmp_path, data))


@pytest.mark.parametrize("chunk", [7, 100])
@pytest.mark.parametrize(("form", "limit"), [("a,b\n1,{}\n", 90), ('a,b\n1,"{}"\n', 90), ("a\n{}\n", 90)])
def test_both_readers_take_the_same_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, limit: int, chunk: int
) -> None:
    """A cell of as many characters as one may have is taken by whichever reader, and a longer one by neither."""
    monkeypatch.setattr(encodings, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(encodings, "LONGEST_LINE_BYTES", limit)
    assert csv.field_size_limit(limit) == reading.CELL_LIMIT
    try:
        for cell, taken in (("é" * 44, True), ("x" * limit, True), ("é" * limit, True), ("x" * (limit + 1), False)):
            for row_by_row in ("", "\n"):
                path = written(tmp_path, form.format(cell) + row_by_row)
                if taken:
                    assert rows(delimited(path))[0][-1] == cell
                else:
                    with pytest.raises(ImportRefused, match=r"file\.csv:2: .* or a cell has over"):
                        delimited(path)
    finally:
        csv.field_size_limit(reading.CELL_LIMIT)


def test_long_cells_are_written_away_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are read one by one are held up to a number of characters, and all of them come, in their order."""
    monkeypatch.setattr(reading, "PIECE_CHARACTERS", 250)
    path = written(tmp_path, "id,note\n\n" + "".join(f"u{row},{'x' * 100}\n" for row in range(10)))
    sheet = delimited(path)
    assert [row[1] for row in rows(sheet)] == [f"u{row}" for row in range(10)]
    assert len(list(tmp_path.glob("*/*.parquet"))) == 4


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    """A missing file and a folder are refused by name."""
    with pytest.raises(ImportRefused, match=r"cannot read .*nothing.csv: No such file"):
        delimited(tmp_path / "nothing.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ImportRefused, match="Is a directory"):
        delimited(tmp_path / "folder.csv")


def test_spaces_and_unnamed_columns(tmp_path: Path) -> None:
    """Spaces around names do not count, and empty columns without a name are dropped."""
    sheet = delimited(written(tmp_path, " id , plan,,\nu1, pro,,\n"))
    assert (sheet.columns, rows(sheet)) == (["id", "plan"], [(2, "u1", " pro")])


@settings(max_examples=400, deadline=None)
@given(
    header=st.sampled_from(["x,y", '"x",y', "\ufeffx,y", '\ufeff"x",y', "x", '"x"']),
    text=st.text('ab,"\n\r \0é', max_size=30) | st.lists(st.sampled_from(CELLS)).map("".join),
    chunk=st.sampled_from([1, 2, 5, encodings.CHUNK_BYTES]),
)
def test_polars_reads_only_what_it_reads_as_python_does(
    tmp_path_factory: pytest.TempPathFactory, header: str, text: str, chunk: int
) -> None:
    """Whatever a file holds, the reader chosen for it gives what the exact one gives: rows, rejects, refusals."""
    path = written(tmp_path_factory.mktemp("csv"), f"{header}\n{text}")

    def outcome() -> object:
        try:
            sheet = delimited(path)
        except ImportRefused as refused:
            return str(refused)
        return rows(sheet), sheet.rejects, sheet.columns

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "CHUNK_BYTES", chunk)
        chosen = outcome()
        patch.setattr(reading, "uniform", lambda *_: None)
        assert outcome() == chosen


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text('ab1 ,;"\n\ré', max_size=4), min_size=2, max_size=2), max_size=6))
def test_both_readers_agree_with_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]]
) -> None:
    """Whatever a CSV writer writes comes back cell by cell, through whichever reader."""
    path = tmp_path_factory.mktemp("csv") / "file.csv"
    pl.DataFrame(cells, schema={"x": pl.String, "y": pl.String}, orient="row").write_csv(path, quote_style="necessary")
    sheet = delimited(path)
    assert sheet.rejects == []
    assert [row[1:] for row in rows(sheet)] == [tuple(cell or None for cell in row) for row in cells]


def test_ndjson(tmp_path: Path) -> None:
    """Numbers keep their digits, strings stay strings, absent keys are told from null, and bad lines are rejected."""
    price = '{"amount": 19.90, "currency": "EUR"}'
    lines = [
        '{"user_id": 12345678901234567890, "zip": "075", "tags": ["a", 1], "paid": PRICE}',
        "",
        '{"user_id": "b", "zip": null, "ok": true}',
        "not json",
        "[1]",
        '{"user_id": NaN}',
    ]
    sheet = read_ndjson(written(tmp_path, "\n".join(lines).replace("PRICE", price), "file.ndjson"))
    assert rows(sheet) == [
        (1, "12345678901234567890", "075", '["a", "1"]', "19.90 EUR", None),
        (3, "b", None, None, None, "true"),
    ]
    assert [reject.line for reject in sheet.rejects] == [4, 5, 6]
    assert sheet.textual == {"user_id", "zip"}
    assert {name: mask.to_list() for name, mask in sheet.absent.items()} == {
        "tags": [False, True],
        "paid": [False, True],
        "ok": [True, False],
    }
    for data, message in [
        (json.dumps([{"user_id": "a"}]), "holds one JSON array"),
        ('{"a": {"b": 1}}', "file.ndjson:1: 'a' holds an object"),
        ('{"a": [[1]]}', "a list of lists"),
        ('{"a": 1, "A": 2}', "differ only in case"),
    ]:
        with pytest.raises(ImportRefused, match=message):
            read_ndjson(written(tmp_path, data, "file.ndjson"))


@pytest.mark.parametrize(
    "line",
    [
        '{"user_id": "a", "name": "x\\ud800"}',
        '{"\\uDFFF": 1}',
        '{"tags": ["\\udc00\\ud83d"]}',
        '{"a": {"b": ["\\uD83D"]}}',
    ],
)
def test_half_of_a_character_costs_its_line(tmp_path: Path, line: str) -> None:
    """A surrogate without its other half is no text, wherever it stands: the line is rejected, the others are taken."""
    pair = '{"name": "\\ud83d\\ude00"}'
    sheet = read_ndjson(written(tmp_path, f"{pair}\n{line}\n{pair}\n", "file.ndjson"))
    assert rows(sheet) == [(1, "😀"), (3, "😀")]
    assert [(one.line, one.row) for one in sheet.rejects] == [(2, line)]
    assert re.search(r"not read as JSON: \\ud[0-9a-f]{3} is half of a surrogate pair", sheet.rejects[0].reason)


def test_parquet(tmp_path: Path) -> None:
    """Native types become the stored dtypes, and a type that no kind holds is refused by name."""
    frame = pl.DataFrame(
        {
            "small": pl.Series([1, None], dtype=pl.UInt8),
            "ratio": pl.Series([0.5, float("nan")], dtype=pl.Float32),
            "cat": pl.Series(["a", None], dtype=pl.Categorical),
            "naive": [datetime(2026, 1, 1), None],
            "tags": [[1, 2], None],
            "nothing": [None, None],
        }
    )
    path = tmp_path / "file.parquet"
    frame.write_parquet(path)
    sheet = read_parquet(path).scan.collect()
    assert sheet.dtypes == [
        DTYPES[kind] for kind in ("integer", "integer", "number", "string", "instant", "list", "string")
    ]
    assert sheet.rows() == [
        (1, 1, 0.5, "a", datetime(2026, 1, 1, tzinfo=UTC), ["1", "2"], None),
        (2, None, None, None, None, None, None),
    ]
    pl.DataFrame({"raw": [b"x"]}).write_parquet(path)
    with pytest.raises(ImportRefused, match="'raw' is of type Binary"):
        read_parquet(path)
    with pytest.raises(ImportRefused, match="cannot be read as Parquet"):
        read_parquet(written(tmp_path, "user_id\n", "text.parquet"))


def test_lines_survive_a_large_file(tmp_path: Path) -> None:
    """Beyond one chunk of either reader, lines still count from the header, and both readers agree."""
    body = "".join(f"u{row},{row}\n" for row in range(120_000))
    fast = delimited(written(tmp_path, "id,n\n" + body))
    slow = delimited(written(tmp_path, "id,n\n" + body + "\n", "slow.csv"))
    assert fast.scan.collect().equals(slow.scan.collect())
    assert fast.height == slow.height == 120_000
    assert (
        fast.rows([119_999, 3]).rows()
        == slow.rows([119_999, 3]).rows()
        == [(5, "u3", "3"), (120_001, "u119999", "119999")]
    )


def test_columns_come_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few columns are read together, all of them come, whole and in the order of the file."""
    names = [f"c{number}" for number in range(7)]
    lines = [",".join(f"{name}r{row}" for name in names) for row in range(5)]
    sheet = delimited(written(tmp_path, "\n".join([",".join(names), *lines])))
    for cells in (1, 10, 15, 1_000):
        monkeypatch.setattr(reading, "CELLS_AT_ONCE", cells)
        assert {one.name: one.to_list() for one in sheet.series()} == {
            name: [f"{name}r{row}" for row in range(5)] for name in names
        }
        assert [one.name for one in sheet.series()] == names
