"""Commands on segments: `journeys segment ...`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from activities.documents.checking import check_documents
from activities.documents.json_text import parse_json
from activities.documents.raw import Positions, RawDocument
from activities.documents.reading import read_documents, read_text
from activities.documents.saving import save_documents
from activities.documents.yaml_text import parse_yaml
from activities.records.catalogue import ImportedSegment
from activities.segments.counting import count_segment
from activities.segments.explaining import leaf_table
from activities.segments.imported import read_members, store_members
from activities.segments.segments import Evaluation, References
from scripts.documents import described
from scripts.output import json_option, people, print_faults, print_json, print_table, wants_json
from workers.engine import Engine, is_file, name_and_version
from workflows.conditions import SUBJECTS, Condition, SegmentRef
from workflows.documents import SegmentDocument
from workflows.errors import NotFoundError, RefusedError


@click.group()
def segment() -> None:
    """List, import, save, preview and explain segments."""


@segment.command(name="list")
@json_option
def list_segments() -> None:
    """List all segments, each with its users, devices and reachable users as of now."""
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    with Engine.open() as engine:
        for saved in engine.stores.catalogue.newest("segment"):
            found = _evaluate_name(engine, saved.name, now)
            count = count_segment(engine.stores, found)
            rows.append(
                {
                    "segment": saved.name,
                    "kind": "imported" if isinstance(saved.document, ImportedSegment) else "built",
                    "version": saved.version,
                    **count.model_dump(mode="json", exclude={"tables"}),
                }
            )
    if wants_json():
        print_json({"segments": rows})
    else:
        columns = ("segment", "kind", "version", "users", "devices", "reachable")
        print_table(columns, [[row[column] for column in columns] for row in rows])


@segment.command()
@click.argument("name")
@json_option
def show(name: str) -> None:
    """Show a saved segment: NAME, or NAME@3 for a version."""
    with Engine.open() as engine:
        base, version = name_and_version(name)
        saved = engine.stores.catalogue.find("segment", base, version)
    print_json(described(saved))


@segment.command(name="import")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--column", help="Column of the ids; left out where it can be told.")
@click.option("--identifier", type=click.Choice(["user_id", "device_id"]), default="user_id", show_default=True)
@json_option
def import_segment(name: str, file: Path, column: str | None, identifier: Any) -> None:
    """Import a CSV FILE of ids as the segment NAME: a new version, or none when nothing changed."""
    with Engine.open() as engine:
        stores = engine.stores
        raw = RawDocument("segment", {"segment": name, "match": {"everyone": "true"}})
        check_documents(stores, [raw], datetime.now(UTC)).require()  # the name's form
        with people().status(f"importing {file}"):
            membership = read_members(
                stores.tables,
                name,
                file,
                column=column,
                identifier=identifier,
                rejects_dir=engine.settings.rejects,
            )
            known = [one for one in stores.catalogue.newest("segment") if one.name == name]
            kept = known[0].document if known else None
            if not (isinstance(kept, ImportedSegment) and kept.import_id == membership.segment.import_id):
                store_members(stores.tables, membership)
            (saved,) = stores.catalogue.save([membership.segment], lambda _: [], datetime.now(UTC))
    report = membership.report
    numbers = {
        "rows": report.rows,
        "users": report.users,
        "unknown": report.unknown,
        "duplicates": report.duplicates,
        "empty": report.empty,
        "rejected": report.rejected,
    }
    if wants_json():
        rejects = str(report.rejects_file) if report.rejects_file else None
        print_json({"segment": name, "version": saved.version, **numbers, "rejects_file": rejects})
        return
    people().print(
        f"[bold]{name}[/] v{saved.version}{'' if saved.changed else ' (unchanged)'}: "
        + ", ".join(f"{number} {what}" for what, number in numbers.items())
    )
    if report.rejects_file:
        people().print(f"rows that were left out, with the reason of each: {report.rejects_file}")


@segment.command()
@click.argument("name")
@click.argument("file")
@json_option
def save(name: str, file: str) -> None:
    """Save the condition or segment document in FILE, or `-` for standard input, as the segment NAME."""
    with Engine.open() as engine:
        raw = _one_segment(file, name)
        if raw.name != name:
            raise RefusedError(
                f"{file!r} holds the segment {raw.name!r}, not {name!r}: rename one of them", code="name"
            )
        report = save_documents(engine.stores, [raw], datetime.now(UTC), rejects_dir=engine.settings.rejects)
    if wants_json():
        print_json(report)
        return
    print_faults(report.warnings, label="warning")
    for one in report.saved:
        people().print(f"[bold]{one.name}[/] v{one.version} {'saved' if one.changed else 'unchanged'}")


@segment.command()
@click.argument("source", metavar="NAME|FILE|-")
@click.option("--ids", is_flag=True, help="List the user ids, sorted.")
@json_option
def preview(source: str, ids: bool) -> None:
    """Count who is in a segment now: a saved one, one in a file, or a condition on standard input."""
    with Engine.open() as engine:
        _, found, _, _ = _meant(engine, source)
        count = count_segment(engine.stores, found)
    user_ids = found.users.get_column("user_id").to_list() if ids else None
    if wants_json():
        print_json({**count.model_dump(mode="json"), **({"user_ids": user_ids} if ids else {})})
        return
    if user_ids is not None:
        click.echo("\n".join(user_ids))
    people().print(f"users {count.users}, devices {count.devices}, reachable {count.reachable}")


@segment.command()
@click.argument("source", metavar="NAME|FILE|-")
@click.argument("user")
@json_option
def explain(source: str, user: str) -> None:
    """Tell why USER is in a segment or not: each part, with the value found and whether it is true."""
    with Engine.open() as engine:
        condition, found, zone, references = _meant(engine, source)
        snapshot = engine.stores.segments.snapshot(found.tables)
        everybody = snapshot.users.select("user_id")
        if engine.stores.tables.collect(everybody.filter(user_id=user)).is_empty():
            raise NotFoundError(
                f"there is no user {user!r} in the table users", hint="see what is imported: journeys tables"
            )
        tree = leaf_table(condition, snapshot, as_of=found.as_of, zone=zone, resolve=references, user_id=user)
    member = bool(tree["true"])
    if wants_json():
        print_json({"user_id": user, "member": member, "tree": tree, "tables": found.tables})
        return
    people().print(f"[bold]{user}[/] is {'in' if member else 'not in'} {source}")
    _print_tree(tree, 0)


def _print_tree(node: dict[str, Any], depth: int) -> None:
    mark = "[green]true [/]" if node["true"] else "[red]false[/]"
    people().print(f"{mark} {'  ' * depth}", end="")
    has_value = node["node"] == "leaf" and node.get("value") is not None
    people().print(node["text"] + (f"   (is {node['value']})" if has_value else ""), markup=False)
    for child in node.get("children", ()):
        _print_tree(child, depth + 1)


def _evaluate_name(engine: Engine, name: str, now: datetime) -> Evaluation:
    return engine.stores.segments.evaluate(SegmentRef(segment=name), now)


def _meant(engine: Engine, source: str) -> tuple[Condition, Evaluation, str, References]:
    """Evaluate what a person names: a saved segment, or a condition in a file or on standard input."""
    stores, now = engine.stores, datetime.now(UTC)
    versions = stores.segments.versions()
    if source != "-" and not is_file(source):
        base, version = name_and_version(source)
        saved = stores.catalogue.find("segment", base, version)
        condition: Condition = SegmentRef(segment=source)
        zone = stores.segments.zone
        if isinstance(saved.document, SegmentDocument):
            condition, zone = saved.document.match, saved.document.timezone or zone
        references = stores.segments.references(versions, zone=zone)
    else:
        raw = _one_segment(source, "preview")
        checked = check_documents(stores, [raw], now)
        checked.require()
        document = checked.segments[raw.name]
        condition, zone = document.match, document.timezone or stores.segments.zone
        references = stores.segments.references(versions, zone=zone, files=checked.members(0))
    found = stores.segments.evaluate(condition, now, zone=zone, versions=versions, references=references)
    return condition, found, zone, references


def _one_segment(source: str, name: str) -> RawDocument:
    """Read one segment document; a bare condition is taken for one with the given name."""
    if source == "-":
        text, shown, folder = sys.stdin.read(), "standard input", Path.cwd()
    else:
        try:
            text, shown, folder = Path(source).read_text(encoding="utf-8-sig"), source, Path(source).parent
        except (OSError, UnicodeDecodeError):
            read_documents(source)  # words what is wrong with the file
            raise
    form: Any = "json" if source.endswith(".json") else "yaml"
    if raw := _bare_condition(text, shown, folder, name, form):
        return raw
    found = [raw for raw in read_text(text, shown, form=form, folder=folder) if raw.kind == "segment"]
    if len(found) == 1:
        return found[0]
    raise RefusedError(
        f"{shown!r} holds {len(found)} segments; this command takes one",
        code="one-segment",
        hint="save the file with `journeys save`, then give the segment's name",
    )


def _bare_condition(text: str, shown: str, folder: Path, name: str, form: Any) -> RawDocument | None:
    trees, faults = parse_json(text, shown) if form == "json" else parse_yaml(text, shown)
    if faults or len(trees) != 1 or not isinstance(trees[0].data, dict):
        return None
    tree = trees[0]
    if "match" in tree.data or "journey" in tree.data or not set(SUBJECTS) & set(tree.data):
        return None
    positions = Positions(
        {("match", *path): place for path, place in tree.positions.values.items()},
        {("match", *path): place for path, place in tree.positions.keys.items()},
    )
    return RawDocument("segment", {"segment": name, "match": tree.data}, shown, folder, positions)


COMMANDS = (segment,)
