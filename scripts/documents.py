"""Commands on documents: new, check, save, plan, list, show, versions, schema, settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import SecretStr, TypeAdapter

from activities.records.catalogue import Saved, content_of
from scripts.output import DONE, REFUSED, json_option, people, print_faults, print_json, print_table, wants_json
from scripts.sample import write_first_project
from workers.engine import Engine, name_and_version
from workers.settings import Settings, load_settings, origin_of
from workflows.documents import BRANCH_LABELS, JourneyDocument, SegmentDocument
from workflows.graph import routes_of


@click.command()
@click.argument("folder", required=False, default=".", type=click.Path(file_okay=False, path_type=Path))
@json_option
def new(folder: Path) -> None:
    """Write two documents, sample CSV files and the schemas into FOLDER, ready to run."""
    written = write_first_project(folder)
    _write_schemas(folder / ".journeys" / "schema")
    if wants_json():
        print_json({"folder": str(folder), "files": [str(path) for path in written]})
        return
    console = people()
    for path in written:
        console.print(f"wrote {path}")
    inside = "" if folder == Path() else f"cd {folder} && "
    console.print("\nNext, with a server and worker by `journeys dev` in another terminal of the same folder:")
    console.print(f"  {inside}journeys import users users.csv && journeys import devices devices.csv")
    console.print("  journeys import events events.csv")
    console.print("  journeys save segments.yaml hello.yaml")
    console.print("  journeys plan hello")
    console.print("  journeys start hello --wait")


@click.command()
@click.argument("paths", nargs=-1, required=True)
@json_option
def check(paths: tuple[str, ...]) -> int:
    """Check documents together; PATHS are files or folders of them. Saves nothing."""
    with Engine.open() as engine:
        report = engine.check(paths)
    if wants_json():
        print_json(report)
    else:
        print_faults(report.errors, label="error")
        print_faults(report.warnings, label="warning")
        found = f"{len(report.errors)} errors, {len(report.warnings)} warnings in {len(report.files)} files"
        people().print(f"{'[green]ok[/]' if report.ok else '[red]not ok[/]'}: {found}")
    return DONE if report.ok else REFUSED


@click.command()
@click.argument("paths", nargs=-1, required=True)
@json_option
def save(paths: tuple[str, ...]) -> None:
    """Check documents and save each as a new version, all or none."""
    with Engine.open() as engine:
        report = engine.save(paths)
    if wants_json():
        print_json(report)
        return
    print_faults(report.warnings, label="warning")
    print_table(
        ("kind", "name", "version", "digest", ""),
        [
            (one.kind, one.name, one.version, one.digest, "saved" if one.changed else "unchanged")
            for one in report.saved
        ],
    )


@click.command()
@click.argument("journey")
@json_option
def plan(journey: str) -> None:
    """Tell exactly who would enter JOURNEY now, take each branch and be pushed. Sends nothing."""
    with Engine.open() as engine:
        found = engine.plan(journey)
    if wants_json():
        print_json(found)
        return
    refused = ", ".join(f"{reason} {number}" for reason, number in found.refused.items()) or "nobody"
    people().print(f"[bold]{found.journey}[/]: audience {found.audience}, refused: {refused}\n")
    print_table(
        ("element", "arrive", "of these"),
        [
            (
                name,
                element.arrived,
                ", ".join(
                    f"{BRANCH_LABELS.get(branch, branch)}: {number}"
                    for branch, number in (element.branches | element.users).items()
                    if branch != "next"
                ),
            )
            for name, element in found.elements.items()
        ],
    )
    pushes = found.pushes
    people().print(f"\npushes: {pushes.users} users on {pushes.devices} devices {pushes.by_provider or ''}")


@click.command(name="list")
@json_option
def list_journeys() -> None:
    """List the saved journeys, with the state of each."""
    with Engine.open() as engine:
        rows = []
        for saved in engine.stores.catalogue.newest("journey"):
            life = engine.stores.ledger.life(saved.name)
            rows.append(
                {
                    "journey": saved.name,
                    "title": getattr(saved.document, "title", ""),
                    "version": saved.version,
                    "state": life.state if life is not None else "draft",
                    "running_version": life.version if life is not None and life.state == "running" else None,
                    "inside": engine.stores.ledger.inside(saved.name),
                }
            )
    if wants_json():
        print_json({"journeys": rows})
        return
    print_table(
        ("journey", "version", "state", "inside", "title"),
        [(row["journey"], row["version"], row["state"], row["inside"], row["title"]) for row in rows],
    )


@click.command()
@click.argument("name")
@json_option
def show(name: str) -> None:
    """Show a saved journey: NAME, or NAME@3 for a version."""
    with Engine.open() as engine:
        base, version = name_and_version(name)
        saved = engine.stores.catalogue.find("journey", base, version)
    if wants_json():
        print_json(described(saved))
        return
    people().print(f"[bold]{saved.name}[/] version {saved.version}, digest {saved.digest}, saved {saved.saved_at}\n")
    click.echo(yaml.safe_dump(content_of(saved.document), allow_unicode=True, sort_keys=False, width=110), nl=False)
    if isinstance(saved.document, JourneyDocument):
        people().print("")
        print_table(
            ("element", "kind", "leads to"),
            [
                (name, route.kind, ", ".join(f"{BRANCH_LABELS.get(way, way)}: {to}" for way, to in route.to.items()))
                for name, route in routes_of(saved.document).items()
            ],
        )


@click.command()
@click.argument("name")
@json_option
def versions(name: str) -> None:
    """List all versions of the journey NAME, newest first."""
    with Engine.open() as engine:
        engine.stores.catalogue.find("journey", name)
        found = engine.stores.catalogue.versions("journey", name)
    rows = [
        {
            "version": saved.version,
            "digest": saved.digest,
            "saved_at": saved.saved_at.isoformat().replace("+00:00", "Z"),
        }
        for saved in found
    ]
    if wants_json():
        print_json({"journey": name, "versions": rows})
    else:
        print_table(("version", "digest", "saved at"), [tuple(row.values()) for row in rows])


@click.command()
@click.argument("kind", type=click.Choice(["journey", "segment"]))
@json_option
def schema(kind: str) -> None:
    """Print the JSON Schema of a journey or segment document, for editors."""
    print_json(_schema(kind))


@click.command()
@json_option
def settings() -> None:
    """List each setting with its value, where it comes from, and what it means."""
    found = load_settings()
    rows = [
        {
            "name": f"JOURNEYS_{name}".upper(),
            "value": _shown(getattr(found, name)),
            "origin": origin_of(name),
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if wants_json():
        print_json({"settings": rows})
    else:
        print_table(("setting", "value", "origin", "meaning"), [tuple(row.values()) for row in rows])


def described(saved: Saved) -> dict[str, Any]:
    """Give a saved version as commands print it."""
    return {
        "kind": saved.kind,
        "name": saved.name,
        "version": saved.version,
        "digest": saved.digest,
        "saved_at": saved.saved_at.isoformat().replace("+00:00", "Z"),
        "definition": content_of(saved.document),
    }


def _shown(value: object) -> str | None:
    return None if value is None else "********" if isinstance(value, SecretStr) else str(value)


def _schema(kind: str) -> dict[str, Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(JourneyDocument if kind == "journey" else SegmentDocument)
    return adapter.json_schema()


def _write_schemas(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("journey", "segment"):
        (folder / f"{kind}.json").write_text(json.dumps(_schema(kind), indent=2, ensure_ascii=False))


COMMANDS = (new, check, save, plan, list_journeys, show, versions, schema, settings)
