"""Rows that imports could not take: each is written down as it stands in the file, and no other import loses it."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from activities.tables.identifiers import IdentifierReport, read_identifiers
from activities.tables.imports import ImportReport, import_table
from activities.tables.rejects import Reject, write_rejects
from tests.desk import NOW, Desk
from workflows.errors import ImportRefused


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def rejected(report: ImportReport | IdentifierReport) -> list[list[str]]:
    """Give the rejected rows, each with its line and its reason."""
    assert report.rejects_file is not None
    with open(report.rejects_file, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def test_rejected_rows_of_no_other_import_are_lost(desk: Desk) -> None:
    """Files of one name, in other folders or with other endings, and the same file again have rejects of their own."""
    aside = desk.folder / "aside"
    texts = {f"p{n}/users.csv": f"user_id,age\na,1\n,{n}\n" for n in range(3)}
    texts["users.ndjson"] = '{"user_id": "a"}\n{"age": 9}\n'
    written = []
    for name, text in texts.items():
        (desk.folder / name).parent.mkdir(exist_ok=True)
        path = desk.file(text, name)
        written.append(import_table(desk.tables, "users", path, now=NOW, rejects_dir=aside))
    assert [Path(str(report.rejects_file)).name for report in written] == [
        "users.20260301T000000Z.rejects.csv",
        *(f"users.20260301T000000Z-{n}.rejects.csv" for n in (2, 3, 4)),
    ]
    assert [rejected(report)[0][2] for report in written] == [",0", ",1", ",2", ",9"]
    assert len(list(aside.iterdir())) == len(texts)


def test_rejected_rows_of_imports_at_once_are_all_there(tmp_path: Path) -> None:
    """Many imports that write their rejects at one moment each find a name, and all rows are there in the end."""
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda n: write_rejects(tmp_path / "users.csv", None, [Reject(n, "x", str(n))], NOW), range(40))
        )
    assert len(set(found)) == 40
    assert sorted(int(Path(str(path)).read_text().split(",")[-1]) for path in found) == list(range(40))


def test_rejects_of_a_file_with_a_long_name(desk: Desk) -> None:
    """A name as long as a name may be, in letters of several bytes, leaves room for what the rejects file adds."""
    report = desk.load("users", "user_id,age\na,1\n,2\n", "é" * 125 + ".csv")
    assert rejected(report) == [["3", "user_id is empty", ",2"]]


@pytest.mark.parametrize("broken", ["", "too,long\n"])
def test_a_list_that_matches_nobody_tells_its_rows(tmp_path: Path, broken: str) -> None:
    """A list without a known id is refused and names the file of its rejected rows, if one was asked for."""
    (tmp_path / "list.csv").write_text("user_id\nx1\nx2\n" + broken)
    tables = {"users": pl.LazyFrame({"user_id": ["u1"]}), "devices": pl.LazyFrame()}
    for folder in (None, tmp_path / "aside"):
        with pytest.raises(ImportRefused, match="none of it is a known user_id") as refused:
            read_identifiers(tmp_path / "list.csv", column=None, identifier="user_id", rejects_dir=folder, **tables)
        written = [path for path in tmp_path.rglob("*") if path.name.startswith("list.") and path.suffix == ".csv"]
        assert len(written) == (1 if folder is None else 2)
        if folder is not None:
            rows = next(path for path in written if path.parent == folder)
            assert str(rows) in refused.value.hint
            assert rows.read_text().splitlines()[1:3] == [
                "2,no user_id x1 in the table,x1",
                "3,no user_id x2 in the table,x2",
            ]
