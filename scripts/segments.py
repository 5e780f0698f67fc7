"""Commands on segments: `journeys segment ...`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from activities.documents.checking import check_documents
from activities.documents.json_text import parse_json
from activities.documents.phrases import what_is
from activities.documents.raw import Positions, RawDocument
from activities.documents.reading import file_text, read_text, stream_text
from activities.documents.saving import save_documents
from activities.documents.yaml_text import Tree, parse_yaml
from activities.records.catalogue import ImportedSegment
from activities.segments.counting import count_segment
from activities.segments.explaining import leaf_table
from activities.segments.imported import import_segment as store_list
from activities.segments.imported import read_members
from activities.segments.seglang import read_seglang
from activities.segments.segments import Evaluation, References
from activities.tables.schema import Schema
from scripts.documents import described, print_described, print_imported
from scripts.explaining import print_tree, require_user
from scripts.output import (
    enumerated,
    faults_json,
    instant_json,
    json_option,
    people,
    print_faults,
    print_json,
    print_table,
    wants_json,
)
from workers.documents import is_file, name_and_version
from workers.engine import Engine
from workflows.conditions import SUBJECTS, Condition, SegmentRef
from workflows.documents import SegmentDocument
from workflows.errors import DefinitionError, Fault, NotFoundError, RefusedError
from workflows.scalars import quoted

SIZES = ("users", "devices", "reachable")
"""What is told of a segment's size, side by side."""


@click.group()
@json_option
def segment() -> None:
    """List, import, save, preview and explain segments."""


@segment.command(name="list")
@json_option
def list_segments() -> None:
    """List all segments and how large each is now."""
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    with Engine.open() as engine:
        for saved in engine.stores.catalogue.newest("segment"):
            kind = "imported" if isinstance(saved.document, ImportedSegment) else "built"
            try:
                found = _evaluate_name(engine, saved.name, now)
            except (DefinitionError, NotFoundError) as error:
                print_faults(error.faults, label=f"segment {saved.name}: error")
                rows.append({"segment": saved.name, "kind": kind, **dict.fromkeys(SIZES), "as_of": instant_json(now)})
                continue
            count = count_segment(engine.stores, found)
            rows.append({"segment": saved.name, "kind": kind, **count.model_dump(mode="json", exclude={"tables"})})
    if wants_json():
        print_json({"segments": rows})
    else:
        columns = ("segment", "kind", "users", "devices", "reachable")
        print_table(columns, [[row[column] for column in columns] for row in rows])


@segment.command()
@click.argument("name")
@json_option
def show(name: str) -> None:
    """Show a saved segment.

    NAME is its newest version, NAME@3 one that you choose.
    """
    with Engine.open() as engine:
        base, version = name_and_version(name)
        saved = engine.stores.catalogue.find("segment", base, version)
    if wants_json():
        print_json(described(saved))
    else:
        print_described(saved)


@segment.command(name="import")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--column", help="Column of the ids; left out where it can be told.")
@click.option("--identifier", type=click.Choice(["user_id", "device_id"]), default="user_id", show_default=True)
@click.option("--add", is_flag=True, help="Keep the members of the newest version too.")
@json_option
def import_segment(name: str, file: Path, column: str | None, identifier: Any, add: bool) -> None:
    """Import a CSV file of ids as a segment.

    A new version of the segment NAME, or none when it holds these very ids already.
    """
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
            saved = store_list(stores.tables, stores.catalogue, membership, datetime.now(UTC), add=add)
            size = count_segment(stores, _evaluate_name(engine, f"{name}@{saved.version}", datetime.now(UTC)))
    report = membership.report
    sizes = {what: getattr(size, what) for what in SIZES}
    if wants_json():
        told = {"rejects_file": report.rejects_file, "size": sizes, "warnings": report.warnings}
        print_json({"segment": name, "version": saved.version, **report.numbers, **told})
        return
    for warning in report.warnings:
        people(stderr=True).print(f"[yellow]warning[/]: {escape(warning)}")
    people().print(
        f"[bold]{name}[/] v{saved.version}{'' if saved.changed else ' (unchanged)'}: {enumerated(report.numbers)}"
    )
    people().print(f"in the segment now: {enumerated(sizes)}")
    if report.rejects_file:
        people().print(f"rows that were left out, with the reason of each: {report.rejects_file}", markup=False)


@segment.command()
@click.argument("name")
@click.argument("file", required=False)
@click.option("--seglang", metavar="EXPRESSION", help='A Pushwoosh expression, such as T("City", eq, "Tokyo").')
@json_option
def save(name: str, file: str | None, seglang: str | None) -> None:
    """Save a condition as a segment.

    FILE holds the condition, or a segment document; `-` is standard input. With --seglang the condition is a segment
    expression of Pushwoosh in place of a file. It becomes a new version of NAME.
    """
    if (file is None) == (seglang is None):
        raise click.UsageError("give either FILE or --seglang EXPRESSION")
    with Engine.open() as engine:
        raw = _one_segment(file, name) if file is not None else _from_seglang(engine, seglang or "", name)
        if raw.name != name:
            raise RefusedError(
                f"{file!r} holds the segment {raw.name!r}, not {name!r}: rename one of them", code="name"
            )
        report = save_documents(engine.stores, [raw], datetime.now(UTC), rejects_dir=engine.settings.rejects)
    if wants_json():
        print_json({**report.model_dump(mode="json"), "warnings": faults_json(report.warnings)})
        return
    print_faults(report.warnings, label="warning")
    print_imported(report)
    for one in report.saved:
        people().print(f"[bold]{one.name}[/] v{one.version} {'saved' if one.changed else 'unchanged'}")


@segment.command()
@click.argument("source", metavar="NAME|FILE|-")
@click.option("--ids", is_flag=True, help="List the user ids, sorted.")
@json_option
def preview(source: str, ids: bool) -> None:
    """Count who is in a segment now.

    A saved one (NAME or NAME@3), one in a FILE, or a condition on standard input (`-`).
    """
    with Engine.open() as engine:
        _, found, _, _ = _meant(engine, source)
        count = count_segment(engine.stores, found)
    user_ids = found.users.get_column("user_id").to_list() if ids else None
    if wants_json():
        print_json({**count.model_dump(mode="json"), **({"user_ids": user_ids} if ids else {})})
        return
    if user_ids:  # of nobody there is no line, not even an empty one
        click.echo("\n".join(user_ids))
    sizes = f"users {count.users:,}, devices {count.devices:,}, reachable {count.reachable:,}"
    people(stderr=ids or None).print(sizes)  # the list of ids stays a list


@segment.command()
@click.argument("source", metavar="NAME|FILE|-")
@click.argument("user")
@json_option
def explain(source: str, user: str) -> None:
    """Tell why a user is in a segment, or not.

    Each part of the condition, with the value found for USER and whether it is true.
    """
    with Engine.open() as engine:
        condition, found, zone, references = _meant(engine, source)
        snapshot = engine.stores.segments.snapshot(found.tables)
        require_user(engine, user)
        tree = leaf_table(condition, snapshot, as_of=found.as_of, zone=zone, resolve=references, user_id=user)
    member = bool(tree["true"])
    if wants_json():
        print_json({"member": member, "tree": tree})
        return
    people().print(f"[bold]{escape(user)}[/] is {'in' if member else 'not in'} {escape(source)}")
    print_tree(tree)


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


def _from_seglang(engine: Engine, expression: str, name: str) -> RawDocument:
    """Read a segment expression as a segment document."""
    schema: Schema = {table: engine.stores.tables.schema(table) for table in ("users", "devices")}
    condition = read_seglang(expression, schema)
    match = condition.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return RawDocument("segment", {"segment": name, "match": match})


def _one_segment(source: str, name: str) -> RawDocument:
    """Read one segment document; a bare condition is taken for one with the given name."""
    if source == "-":
        shown, folder = "standard input", Path.cwd()
        text = stream_text(sys.stdin.buffer, shown)
    else:
        shown, folder = source, Path(source).parent
        try:
            with Path(source).open("rb") as stream:  # of a pipe too, such as `<(...)` of a shell
                text = stream_text(stream, shown)
        except OSError:
            file_text(Path(source))  # words what is wrong with the file
            raise
    form: Any = "json" if source.endswith(".json") else "yaml"
    trees, faults = parse_json(text, shown) if form == "json" else parse_yaml(text, shown)
    if not any(_is_document(tree) for tree in trees):
        return _bare_condition(trees, faults, shown, folder, name)
    found = [raw for raw in read_text(text, shown, form=form, folder=folder) if raw.kind == "segment"]
    if len(found) == 1:
        return found[0]
    raise _not_one(shown, f"{len(found)} segments")


def _not_one(shown: str, held: str) -> RefusedError:
    return RefusedError(
        f"{shown!r} holds {held}; this command takes one",
        code="one-segment",
        hint="save the file with `journeys save`, then give the segment's name",
    )


def _is_document(tree: Tree) -> bool:
    # A bare condition may have the key `segment` too.
    return isinstance(tree.data, dict) and bool({"match", "journey", "title", "timezone"} & set(tree.data))


def _bare_condition(trees: list[Tree], faults: list[Fault], shown: str, folder: Path, name: str) -> RawDocument:
    """Take a condition for a segment document, and tell only what is wrong with it: nobody meant a document."""
    if not faults and len(trees) > 1:
        raise _not_one(shown, f"{len(trees)} conditions")
    if not faults and not (trees and isinstance(trees[0].data, dict)):
        found = what_is(trees[0].data if trees else "")
        line, column = trees[0].positions.locate(()) if trees else (None, None)
        message = f"a condition is a mapping, such as `{{attribute: plan, is: paid}}`, not {found}"
        hint = f"it has one of the subjects {quoted(SUBJECTS)}"
        faults = [Fault(code="condition", message=message, hint=hint, file=shown, line=line, column=column)]
    if faults:
        raise DefinitionError(sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0)))
    (tree,) = trees
    positions = Positions(
        {("match", *path): place for path, place in tree.positions.values.items()},
        {("match", *path): place for path, place in tree.positions.keys.items()},
    )
    return RawDocument("segment", {"segment": name, "match": tree.data}, shown, folder, positions)


COMMANDS = (segment,)
