"""Of which type a column is: by what is stored, asked for, or held, or by its name; and which values are of none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from activities.tables.imports import import_table
from activities.tables.schema_files import read_schema
from activities.tables.typed_files import NO_ID
from tests.desk import NOW, Desk, rejected
from workflows.errors import DefinitionError, ImportRefused


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("cells", "found"),
    [("x\ny", "string"), ("1.5\n2", "number"), ("yes\nno", "boolean"), ("2026-01-01\n", "date"), ("5 EUR\n", "price")],
)
def test_type_change_is_refused(desk: Desk, cells: str, found: str) -> None:
    """A column whose values are of another kind than the stored one refuses the file, naming both, writing nothing."""
    desk.load("users", "user_id,age\na,1\n")
    lines = "".join(f"u{number},{cell}\n" for number, cell in enumerate(cells.split("\n")))
    with pytest.raises(ImportRefused, match=f"'age' of the table users is of type integer.* of type {found}: .*line 2"):
        desk.load("users", "user_id,age\n" + lines)
    assert desk.rows("users") == [("a", 1)]


def test_stored_kinds_and_overrides_win_over_inference(desk: Desk) -> None:
    """Values that read as the stored kind, or the one asked for, are of that kind, whatever they look like."""
    desk.load("users", "user_id,vip,code,size\na,1,12,3\n", vip="boolean", code="string", size="number")
    desk.load("users", "user_id,vip,code,size\nb,0,034,4\n")
    assert desk.rows("users") == [("a", True, "12", 3.0), ("b", False, "034", 4.0)]
    with pytest.raises(ImportRefused, match="'vip' of the table users is of type boolean"):
        desk.load("users", "user_id,vip\nc,1\n", vip="integer")
    with pytest.raises(ImportRefused, match="no column 'vpi'"):
        desk.load("users", "user_id,vip\nc,1\n", vpi="integer")


@pytest.mark.parametrize("text", ["columns: {zip: string, app: Version}\n", "zip: string\napp: version # as it is\n"])
def test_a_schema_file_decides_where_inference_would_guess(desk: Desk, text: str) -> None:
    """Types from a YAML file win over what values look like, and a stored column of another type is refused."""
    kinds = read_schema(desk.file(text, "types.yaml"))
    assert kinds == {"zip": "string", "app": "version"}
    desk.load("users", "user_id,zip,app,age\na,75001,1.10,3\n", **kinds)
    assert desk.tables.schema("users") == {"user_id": "string", "zip": "string", "app": "version", "age": "integer"}
    changed = read_schema(desk.file("columns:\n  age: string\n", "types.yaml"))
    with pytest.raises(
        ImportRefused, match=r"'age' of the table users is of type integer, and the schema asks for string"
    ):
        desk.load("users", "user_id,age\na,3\n", **changed)
    with pytest.raises(ImportRefused, match="no column 'zpi'; the header is: 'user_id', 'zip'") as absent:
        desk.load("users", "user_id,zip\na,1\n", **read_schema(desk.file("zpi: string\n", "types.yaml")))
    assert "Rename 'zip' to 'zpi'" in absent.value.hint
    assert desk.tables.version("users") == 0


def test_a_schema_that_does_not_fit_the_file_is_told_as_that(desk: Desk) -> None:
    """Values that are not of the type asked for blame the schema, not a table that does not have the column."""
    with pytest.raises(ImportRefused) as unfit:
        desk.load("users", "user_id,zip\na,2A001\nb,20B\n", zip="integer")
    assert unfit.value.message == (
        "the schema asks for type integer of the column 'zip', and the values are of type string: '2A001' on line 2"
    )
    assert unfit.value.hint == "Change the type of 'zip' to string in the schema, or give values that read as integer."
    desk.load("users", "user_id,zip\na,75001\n", zip="integer")
    with pytest.raises(
        ImportRefused, match="'zip' of the table users is of type integer, and the new values"
    ) as stored:
        desk.load("users", "user_id,zip\na,2A001\n", zip="integer")
    assert "schema" not in stored.value.message + stored.value.hint


def test_faults_of_a_schema_file(desk: Desk) -> None:
    """Each unknown type is a fault with its line and the nearest type; what is no schema says what one looks like."""
    path = desk.file("columns:\n  zip: strnig\n  app: {is: version}\n  ok: date\nother: 1\n", "types.yaml")
    with pytest.raises(DefinitionError) as wrong:
        read_schema(path)
    assert [(fault.path, fault.line, fault.message) for fault in wrong.value.faults] == [
        ("other", 5, "beside `columns` nothing else is read"),
        ("columns.zip", 2, "'strnig' is no type"),
        ("columns.app", 3, "{'is': 'version'} is no type"),
    ]
    assert wrong.value.faults[1].hint == "did you mean `string`?"
    assert wrong.value.faults[2].hint.startswith("the types are: integer, number, string")
    with pytest.raises(DefinitionError, match=r"types\.yaml:2"):
        read_schema(desk.file("a: string\na: date\n", "types.yaml"))
    for empty in ("", "columns: {}\n", "- zip\n"):
        with pytest.raises(ImportRefused, match="holds no types of columns"):
            read_schema(desk.file(empty, "types.yaml"))
    with pytest.raises(ImportRefused, match="cannot read"):
        read_schema(desk.folder / "absent.yaml")


def test_the_schema_option(desk: Desk) -> None:
    """`journeys import --schema` types the columns, and a wrong schema imports nothing."""
    desk.file("user_id,zip\na,75001\n", "users.csv")
    desk.file("zip: string\n", "good.yaml")
    desk.file("zip: strnig\n", "bad.yaml")

    def run(schema: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "scripts.cli", "import", "users", str(desk.folder / "users.csv"), "--json"]
        done = subprocess.run(
            [*command, "--schema", str(desk.folder / schema)],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "JOURNEYS_HOME": str(desk.folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, json.loads(done.stdout)

    status, failure = run("bad.yaml")
    assert (status, failure["errors"][0]["line"], failure["errors"][0]["path"]) == (2, 1, "zip")
    assert run("good.yaml")[1]["inserted"] == 1
    assert desk.tables.schema("users")["zip"] == "string"


def test_kinds_by_name(desk: Desk) -> None:
    """Versions, languages and opt-in are what their names say: `1.10` is no number and `no` is Norwegian."""
    report = desk.load("users", "user_id,app_version,language,opt_in,api_version\na,1.10,no,1,beta\n")
    assert list(desk.tables.schema("users").values())[1:] == ["version", "string", "boolean", "string"]
    assert report.warnings == ["the column 'api_version' is of type string, not version: 'beta' on line 2"]


def test_columns_without_a_value(desk: Desk) -> None:
    """A column of empty cells is left out with a warning, unless its kind is known: then it clears."""
    report = desk.load("users", "user_id,plan\na,\n")
    assert report.warnings == ["the column 'plan' has no value, so that its type is unknown: it was left out"]
    desk.load("users", "user_id,plan\na,pro\n")
    assert desk.load("users", "user_id,plan\na,\n").updated == 1
    assert desk.rows("users") == [("a", None)]


def test_dates_and_instants_outside_the_calendar_are_rejected(desk: Desk) -> None:
    """What no calendar of Python's holds is rejected with its value, in text and in Parquet, whatever unit it is in."""
    desk.load("users", "user_id,born,seen\nx,2000-01-01,2026-01-01T00:00Z\n")
    text = (
        "a,0000-01-01,\nb,,0001-01-01T00:00:00+01:00\nc,0001-01-01,9999-12-30T23:59:59Z\nd,9999-12-31,\ne,2000-01-01,\n"
    )
    report = desk.load("users", "user_id,born,seen\n" + text)
    assert [line[:2] for line in rejected(report)[1:]] == [
        ["2", "born '0000-01-01' does not read as date"],
        ["3", "seen '0001-01-01T00:00:00+01:00' does not read as instant"],
    ]
    days = pl.Series([-719_528, 2_932_896, 0, -(2**31), 2_932_897], dtype=pl.Int32).cast(pl.Date)
    for unit, per_second in (("ms", 1_000), ("us", 1_000_000)):
        far = -62_135_596_800 * per_second
        seen = pl.Series([None, 253_402_214_400 * per_second - 1, far, 0, 0]).cast(pl.Datetime(unit))  # type: ignore[arg-type]
        frame = pl.DataFrame({"user_id": list("abcde"), "born": days, "seen": seen})
        frame.write_parquet(desk.folder / "file.parquet")
        report = import_table(desk.tables, "users", desk.folder / "file.parquet", now=NOW)
        assert rejected(report)[1:] == [
            ["1", "born '0000-01-01' does not read as date", "a,0000-01-01,"],
            [
                "3",
                "seen '0001-01-01T00:00:00Z' does not read as instant",
                "c,1970-01-01,0001-01-01T00:00:00Z",
            ],
            [
                "4",
                "born '-5877641-06-23' does not read as date",
                "d,-5877641-06-23,1970-01-01T00:00:00.000000Z",
            ],
            ["5", "born '10000-01-01' does not read as date", "e,10000-01-01,1970-01-01T00:00:00.000000Z"],
        ]
    assert all(row for row in desk.rows("users"))


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Float32, pl.Decimal(20, 2)])
def test_whole_ids_in_columns_of_decimals(desk: Desk, dtype: pl.DataType) -> None:
    """Ids that a program wrote as 1.0 are 1, with a warning; a number that is not whole, or not exact, is no id."""
    path = desk.folder / "file.parquet"
    pl.DataFrame({"user_id": pl.Series([1.0, 2.0, None, 2.5, 30.0]).cast(dtype)}).write_parquet(path)
    report = import_table(desk.tables, "users", path, now=NOW)
    assert desk.rows("users") == [("1",), ("2",), ("30",)]
    assert [line[:2] for line in rejected(report)[1:]] == [
        ["3", "user_id is empty"],
        ["4", f"user_id '{'2.50' if dtype == pl.Decimal(20, 2) else '2.5'}' {NO_ID}"],
    ]
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("the column 'user_id' holds numbers of type ")
    if dtype == pl.Float64:
        ids = [float("nan"), float("inf"), 2.0**53 - 1, 2.0**53, -0.0]
        pl.DataFrame({"device_id": ids, "user_id": list("abcde"), "platform": ["ios"] * 5}).write_parquet(path)
        assert import_table(desk.tables, "devices", path, now=NOW).rejected == 3
        assert desk.rows("devices", "device_id") == [("0",), ("9007199254740991",)]


def test_values_of_parquet_are_judged_as_text_is(desk: Desk) -> None:
    """A price with too many decimals or without a part, and a number that is none, are rejected and never changed."""
    prices = [
        (1.2345, "EUR"),
        (1.23456, "EUR"),
        (None, None),
        (None, "EUR"),
        (2.0, None),
        (3.0, "eur"),
        None,
        (9e13, "USD"),
    ]
    frame = pl.DataFrame(
        {
            "user_id": list("abcdefgh"),
            "paid": [None if one is None else {"amount": one[0], "currency": one[1]} for one in prices],
            "score": [1.0, None, float("nan"), float("inf"), None, None, 2.0, None],
            "tags": [["x", None], None, None, None, None, None, [None], []],
        },
        schema_overrides={"paid": pl.Struct({"amount": pl.Float64, "currency": pl.String})},
    )
    path = desk.folder / "file.parquet"
    frame.write_parquet(path)
    report = import_table(desk.tables, "users", path, now=NOW)
    assert [line[:2] for line in rejected(report)[1:]] == [
        ["2", "paid '1.23456 EUR' does not read as price"],
        ["3", "score 'NaN' does not read as number"],
        ["4", "paid 'null EUR' does not read as price; score 'inf' does not read as number"],
        ["5", "paid '2 null' does not read as price"],
        ["6", "paid '3 eur' does not read as price"],
    ]
    assert desk.rows("users", "user_id", "paid", "score", "tags") == [
        ("a", {"amount": Decimal("1.2345"), "currency": "EUR"}, 1.0, ["x"]),
        ("g", None, 2.0, []),
        ("h", {"amount": Decimal(90_000_000_000_000), "currency": "USD"}, None, []),
    ]
    wide = pl.Series([Decimal("1.500000"), Decimal("1.234567")], dtype=pl.Decimal(30, 6))
    pl.DataFrame(
        {"user_id": ["y", "z"], "paid": pl.struct(amount=wide, currency=pl.lit("EUR"), eager=True)}
    ).write_parquet(path)
    assert rejected(import_table(desk.tables, "users", path, now=NOW))[1:] == [
        ["2", "paid '1.234567 EUR' does not read as price", "z,1.234567 EUR"]
    ]
    lines = (
        '{"user_id": "m", "paid": {"amount": null, "currency": null}}\n'
        '{"user_id": "n", "paid": {"amount": 1, "currency": null}}\n'
    )
    report = desk.load(
        "users",
        lines + '{"user_id": "o", "paid": {"amount": 1.50, "currency": "EUR"}}\n{"user_id": "p"}\n',
        "file.ndjson",
    )
    assert [line[1] for line in rejected(report)[1:]] == ["paid '1 null' does not read as price"]
