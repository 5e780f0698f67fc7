"""Commands on the audience tables: import, tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from activities.tables.delta import TABLES
from activities.tables.imports import import_table
from activities.tables.schema import TableName
from activities.tables.schema_files import read_schema
from scripts.output import counted, json_option, people, print_json, print_table, wants_json
from workers.engine import Engine


@click.command(name="import")
@click.argument("table", type=click.Choice(["users", "devices", "events"]))
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--schema",
    type=click.Path(path_type=Path),
    help="A YAML file that names the types of columns, such as `zip: string`, where they should not be guessed.",
)
@json_option
def import_command(table: Any, file: Path, schema: Path | None) -> None:
    """Import users, devices or events from a file.

    FILE is CSV, Parquet or NDJSON. All of it is imported, in one commit, or nothing.
    """
    kinds = read_schema(schema) if schema else None
    with Engine.open() as engine, people().status(f"importing {file}"):
        report = import_table(
            engine.stores.tables,
            table,
            file,
            schema_overrides=kinds,
            rejects_dir=engine.settings.rejects,
            now=datetime.now(UTC),
        )
    if wants_json():
        print_json(report)
        return
    console = people()
    for warning in report.warnings:
        console.print(f"[yellow]warning[/]: {escape(warning)}")
    console.print(
        f"[bold]{table}[/] v{report.version}: {counted(report.rows, 'row')}, {report.inserted:,} inserted, "
        f"{report.updated:,} updated, {report.unchanged:,} unchanged, {report.rejected:,} rejected"
    )
    if report.users_added:
        console.print(f"{counted(report.users_added, 'user')} added who are known only from this file")
    if report.rejects_file:
        console.print(f"rejected rows, with the reason of each: {report.rejects_file}", markup=False)


@click.command()
@json_option
def tables() -> None:
    """List the audience tables, their columns and types."""
    with Engine.open() as engine:
        held = engine.stores.tables
        rows: list[dict[str, Any]] = [
            {
                "table": name,
                "version": version if version >= 0 else None,
                "rows": held.row_count(name, version),
                "columns": _columns(engine, name, version),
            }
            for name in TABLES
            for version in [held.version(name)]
        ]
    if wants_json():
        print_json({"tables": rows})
        return
    for row in rows:
        version = "not imported yet" if row["version"] is None else f"v{row['version']}, {counted(row['rows'], 'row')}"
        people().print(f"[bold]{row['table']}[/]: {version}")
        if row["version"] is not None:
            print_table(
                ("  column", "type", "rows that have it"),
                [(f"  {column['name']}", column["type"], column["set"]) for column in row["columns"]],
            )


def _columns(engine: Engine, name: TableName, version: int) -> list[dict[str, Any]]:
    """List a table's columns, each with its type and the rows that have a value."""
    kinds = engine.stores.tables.schema(name, version)
    filled = engine.stores.tables.set_counts(name, version)
    return [{"name": column, "type": kind, "set": filled[column]} for column, kind in kinds.items()]


COMMANDS = (import_command, tables)
