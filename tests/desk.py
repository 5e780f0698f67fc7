"""A person with files and tables, who imports."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

from activities.tables.delta import Tables
from activities.tables.identifiers import IdentifierReport
from activities.tables.imports import ImportedTable, ImportReport, import_table
from activities.tables.schema import Kind

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Desk:
    """A person with files and tables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables = Tables(folder / "tables")

    def file(self, text: str, name: str = "file.csv") -> Path:
        path = self.folder / name
        path.write_text(text, newline="")
        return path

    def load(self, table: ImportedTable, text: str, name: str = "file.csv", **kinds: Kind) -> ImportReport:
        return import_table(self.tables, table, self.file(text, name), now=NOW, schema_overrides=kinds)

    def rows(self, table: ImportedTable, *columns: str) -> list[tuple[object, ...]]:
        frame = self.tables.scan(table).collect()
        return sorted(frame.select(columns or frame.columns).rows(), key=repr)


def rejected(report: ImportReport | IdentifierReport) -> list[list[str]]:
    """Read the rejects file of an import, with its header."""
    assert report.rejects_file is not None
    with open(report.rejects_file, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))
