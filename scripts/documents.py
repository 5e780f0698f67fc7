"""Commands on documents: check, save, list, show, versions."""

from __future__ import annotations

from typing import Any

import click

from activities.documents.saving import SaveReport
from activities.records.catalogue import Saved, content_of
from scripts.output import (
    DONE,
    REFUSED,
    counted,
    enumerated,
    faults_json,
    instant,
    instant_json,
    json_option,
    people,
    print_faults,
    print_json,
    print_table,
    print_yaml,
    wants_json,
)
from workers.documents import name_and_version
from workers.engine import Engine
from workflows.documents import BRANCH_LABELS, JourneyDocument
from workflows.graph import routes_of


@click.command()
@click.argument("paths", nargs=-1, required=True)
@json_option
def check(paths: tuple[str, ...]) -> int:
    """Check documents; every fault is told, nothing is saved.

    PATHS are files, or folders of them. Documents that are checked together may refer to each other.
    """
    with Engine.open() as engine:
        report = engine.check(paths)
    if wants_json():
        told = {"errors": faults_json(report.errors), "warnings": faults_json(report.warnings)}
        print_json({"ok": report.ok, "files": report.files, **told})
    else:
        print_faults(report.errors, label="error")
        print_faults(report.warnings, label="warning")
        errors, warnings = counted(len(report.errors), "error"), counted(len(report.warnings), "warning")
        found = f"{errors}, {warnings} in {counted(len(report.files), 'file')}"
        people().print(f"{'[green]ok[/]' if report.ok else '[red]not ok[/]'}: {found}")
    return DONE if report.ok else REFUSED


@click.command()
@click.argument("paths", nargs=-1, required=True)
@json_option
def save(paths: tuple[str, ...]) -> None:
    """Check documents and save each as a new version, all or none.

    PATHS are files, or folders of them. A document that did not change keeps its version.
    """
    with Engine.open() as engine:
        report = engine.save(paths)
    if wants_json():
        print_json({**report.model_dump(mode="json"), "warnings": faults_json(report.warnings)})
        return
    print_faults(report.warnings, label="warning")
    print_imported(report)
    print_table(
        ("kind", "name", "version", "digest", ""),
        [
            (one.kind, one.name, one.version, one.digest, "saved" if one.changed else "unchanged")
            for one in report.saved
        ],
    )


def print_imported(report: SaveReport) -> None:
    """Print for people what the files amounted to that documents refer to."""
    for one in report.imported:
        people().print(f"{one.file} as [bold]{one.segment}[/] v{one.version}: {enumerated(one.numbers)}")
        if one.rejects_file:
            people().print(f"rows that were left out, with the reason of each: {one.rejects_file}", markup=False)


@click.command(name="list")
@json_option
def list_journeys() -> None:
    """List the saved journeys and the state of each."""
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
    """Show a saved journey.

    NAME is its newest version, NAME@3 one that you choose.
    """
    with Engine.open() as engine:
        base, version = name_and_version(name)
        saved = engine.stores.catalogue.find("journey", base, version)
    if wants_json():
        print_json(described(saved))
        return
    print_described(saved)
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
    """List all versions of a journey, newest first."""
    with Engine.open() as engine:
        engine.stores.catalogue.find("journey", name)
        found = engine.stores.catalogue.versions("journey", name)
    if wants_json():
        rows = [
            {"version": saved.version, "digest": saved.digest, "saved_at": instant_json(saved.saved_at)}
            for saved in found
        ]
        print_json({"journey": name, "versions": rows})
    else:
        print_table(
            ("version", "digest", "saved at"), [(saved.version, saved.digest, saved.saved_at) for saved in found]
        )


def described(saved: Saved) -> dict[str, Any]:
    """Give a saved version as commands print it."""
    return {
        "kind": saved.kind,
        "name": saved.name,
        "version": saved.version,
        "digest": saved.digest,
        "saved_at": instant_json(saved.saved_at),
        "definition": content_of(saved.document),
    }


def print_described(saved: Saved) -> None:
    """Print a saved version for people."""
    people().print(
        f"[bold]{saved.name}[/] version {saved.version}, digest {saved.digest}, saved {instant(saved.saved_at)}\n"
    )
    print_yaml(content_of(saved.document))


COMMANDS = (check, save, list_journeys, show, versions)
