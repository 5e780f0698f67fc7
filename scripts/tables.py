"""Commands on the audience tables: import, tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from activities.tables.imports import import_table
from activities.tables.schema import TableName

from activities.tables.delta import TABLES
from scripts.output import json_option, people, print_json, print_table, wants_json
from workers.engine import Engine


@click.command(name="import")
@click.argument("table", type=click.Choice(["users", "devices", "events"]))
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def import_command(table: Any, file: Path) -> None:
    """Import users, devices or events from a CSV, Parquet or NDJSON FILE: all of it in one commit, or nothing."""
    with Engine.open() as engine, people().status(f"importing {file}"):
        report = import_table(
            engine.stores.tables, table, file, rejects_dir=engine.settings.rejects, now=datetime.now(UTC)
        )
    if wants_json():
        print_json(report)
        return
    console = people()
    for warning in report.warnings:
        console.print(f"[yellow]warning[/]: {warning}")
    console.print(
        f"[bold]{table}[/] v{report.version}: {report.rows} rows, {report.inserted} inserted, "
        f"{report.updated} updated, {report.unchanged} unchanged, {report.rejected} rejected"
    )
    if report.users_added:
        console.print(f"{report.users_added} users were added, known only from this file")
    if report.rejects_file:
        console.print(f"rejected rows, with the reason of each: {report.rejects_file}")


@click.command()
@json_option
def tables() -> None:
    """List the audience tables, with their columns and types."""
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
        version = "not imported yet" if row["version"] is None else f"v{row['version']}, {row['rows']} rows"
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
