"""Commands that need no store: new, schema, settings."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr, TypeAdapter
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from scripts.output import json_option, people, print_json, wants_json
from scripts.sample import write_first_project
from workers.settings import Settings, load_settings, origin_of
from workflows.documents import JourneyDocument, SegmentDocument


@click.command()
@click.argument("folder", required=False, default=".", type=click.Path(file_okay=False, path_type=Path))
@json_option
def new(folder: Path) -> None:
    """Write a first journey, ready to run, into a folder.

    Three documents, sample CSV files and the schemas for editors. FOLDER is made if missing; left out: this folder.
    """
    written = write_first_project(folder)
    _write_schemas(folder / ".journeys" / "schema")
    if wants_json():
        print_json({"folder": str(folder), "files": [str(path) for path in written]})
        return
    console = people()
    for path in written:
        console.print(f"wrote {path}", markup=False)
    console.print("\nNext:")
    if folder != Path():
        console.print(f"  cd {shlex.quote(str(folder))}", markup=False)
    for table in ("users", "devices", "events"):
        console.print(f"  journeys import {table} {table}.csv")
    console.print("  journeys save segments.yaml hello.yaml")
    console.print("  journeys plan hello")
    console.print("\nThen `journeys dev` in another terminal, in the same folder, and here:")
    console.print("  journeys start hello --wait")
    console.print("  journeys start reminder.yaml   # waits three days: to pause, revise and resume")


@click.command()
@click.argument("kind", type=click.Choice(["journey", "segment"]))
@json_option
def schema(kind: str) -> None:
    """Print the JSON Schema of a document, for editors."""
    print_json(_schema(kind))


@click.command()
@json_option
def settings() -> None:
    """List each setting, its origin and its meaning.

    Each is an environment variable, or a line of the file of settings. Secrets are masked. The connection to Temporal
    is set as in all its tools, by TEMPORAL_ADDRESS and its like.
    """
    found = load_settings()
    rows = [
        {
            "name": f"JOURNEYS_{name}".upper(),
            "value": _shown(getattr(found, name)),
            "origin": origin_of(name, found),
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if wants_json():
        print_json({"settings": rows})
        return
    console = people()
    for row in rows:
        value = "not set" if row["value"] is None else row["value"]
        origin = {"default": "", row["name"]: "   (from the environment)"}.get(row["origin"], f"   ({row['origin']})")
        console.print(f"[bold]{row['name']}[/] = {escape(str(value))}{origin}")
        console.print(Padding(Text(str(row["meaning"])), (0, 0, 0, 4)), soft_wrap=False)


def _shown(value: object) -> object:
    """Give a setting's value as JSON can hold it, and as anybody may see it."""
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, dict):
        return {name: _shown(one) for name, one in value.items()}
    return str(value) if isinstance(value, Path) else value


def _schema(kind: str) -> dict[str, Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(JourneyDocument if kind == "journey" else SegmentDocument)
    return adapter.json_schema()


def _write_schemas(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("journey", "segment"):
        (folder / f"{kind}.json").write_text(json.dumps(_schema(kind), indent=2, ensure_ascii=False))


COMMANDS = (new, schema, settings)
