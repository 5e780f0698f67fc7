"""The README says what is true: its blocks run or check, its commands exist, its picture is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from pydantic import BaseModel

from activities.documents.checking import check_documents
from activities.documents.reading import read_text
from scripts.cli import journeys
from tests.house import House
from workers.settings import Settings
from workflows.documents import JourneyDocument
from workflows.elements import Element
from workflows.triggers import Entry
from workflows.user_journey import WORK

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


ENTRIES = ("audience-entry", "trigger-entry", "api-entry")
ELEMENTS = (
    "condition-split", "push", "time-delay", "wait-for-trigger", "split-test", "reachability-check", "update-user",
    "webhook", "exit",
)  # fmt: skip
"""The kinds as documents spell them, written down here once more: one that is gone is missed."""


def models(union: Any) -> Iterator[type[BaseModel]]:
    """Give the models of a union of documents."""
    if isinstance(union, type) and issubclass(union, BaseModel):
        yield union
    for part in get_args(union):
        yield from models(part)


def kind_of(model: type[BaseModel]) -> str:
    (kind,) = get_args(model.model_fields["kind"].annotation)
    return str(kind)


PARTS = [*models(Entry), *models(Element)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


def test_every_python_block_compiles() -> None:
    """Each Python block of the README is Python, and imports what exists."""
    assert blocks("python")
    for block in blocks("python"):
        compile(block, "README.md", "exec")
        for line in block.splitlines():
            if line.startswith("from work"):
                exec(line, {})  # noqa: S102  our own README


def test_every_yaml_block_checks(house: House) -> None:
    """Each journey in the README is a document without faults but for the file and segment it names."""
    assert blocks("yaml")
    house.save("{segment: active-payers, match: {segment: paying}}")
    for block in blocks("yaml"):
        folder = house.settings.home
        (folder / "vip.csv").write_text("client\nu1\n")
        checked = check_documents(house.stores, read_text(block, "README.md", folder=folder), datetime.now(UTC))
        assert checked.faults == []


def test_every_command_of_the_readme_exists_with_its_options() -> None:
    """Each `journeys ...` line in a shell block names a command that exists and options that it takes."""
    known = commands(journeys)
    written = re.compile(r"^\s*(?:.*&& )?journeys (.*?)(?:\s+#.*)?$", re.MULTILINE)
    lines = [line for block in blocks("sh") for line in written.findall(block)]
    assert lines
    for line in lines:
        words = line.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, line
        options = {option for parameter in known[name].params for option in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word in options, line


@pytest.mark.parametrize("name", sorted(commands(journeys)))
def test_every_command_stands_in_the_table(name: str) -> None:
    """The README's table of commands names each command that exists."""
    table = README.split("## Commands")[1].split("## Settings")[0]
    words = name.split()
    lines = [line.replace("\\|", "/") for line in table.splitlines() if line.startswith("| `")]
    rows = [re.findall(r"[a-z-]+", line.split("|")[1]) for line in lines]
    assert any(set(words) <= set(row) for row in rows), name


def test_every_command_of_the_table_exists_with_its_options() -> None:
    """Each row of the README's table of commands names commands that exist and options that one of them takes."""
    known = commands(journeys)
    table = README.split("## Commands")[1].split("## Settings")[0]
    rows = [line.replace("\\|", "/").split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    for row in rows:
        for code in re.findall(r"`(?:journeys )?([a-z-]+)", row):
            assert code in {name.split()[0] for name in known}, row
        words = set(re.findall(r"[a-z-]+", row))
        taking = [command for name, command in known.items() if set(name.split()) <= words]
        options = {option for command in taking for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", row)) <= options, row


def test_the_settings_named_exist() -> None:
    """Each JOURNEYS_ variable in the README is a setting."""
    known = {f"JOURNEYS_{name}".upper() for name in Settings.model_fields}
    named = set(re.findall(r"JOURNEYS_[A-Z_]+[A-Z]", README))
    assert named
    assert named <= known


def test_pictures_are_there() -> None:
    """Each picture that the README shows is in the repository."""
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_every_kind_is_made_and_done() -> None:
    """The kinds that documents may name are those of the product, and a run can do each of them."""
    assert {kind_of(model) for model in models(Entry)} == set(ENTRIES)
    assert {kind_of(model) for model in models(Element)} == set(ELEMENTS) == {*WORK, "exit"}


@pytest.mark.parametrize("model", PARTS, ids=lambda model: model.__name__)
def test_every_element_stands_in_the_readme(model: type[BaseModel]) -> None:
    """The README has a row for each entry and element, which names each of its settings and fixed branches."""
    part = README.split("## Journeys")[1].split("## Segments")[0]
    rows = [line for line in part.splitlines() if line.startswith(f"| `{kind_of(model)}`")]
    assert rows, kind_of(model)
    said = " ".join(rows)
    settings = set(model.model_fields) - {"kind", "next", "branches"}
    ways = (
        [way for way in models(model.model_fields["branches"].annotation)] if "branches" in model.model_fields else []
    )
    fixed = {name for way in ways for name, field in way.model_fields.items() if field.annotation is str} - {"next"}
    missing = [name for name in sorted(settings | fixed) if not re.search(rf"\b{name}\b", said)]
    assert missing == [], kind_of(model)


def test_every_setting_of_a_journey_stands_in_the_readme() -> None:
    """The README names each key of a journey's document."""
    part = README.split("## Journeys")[1].split("## Segments")[0]
    assert [name for name in JourneyDocument.model_fields if not re.search(rf"\b{name}\b", part)] == []


def test_every_element_stands_in_the_schema() -> None:
    """The JSON Schema that editors read has each entry and element, with each of its settings and what it means."""
    schema = JourneyDocument.model_json_schema()
    shapes = [shape for shape in schema["$defs"].values() if "kind" in shape.get("properties", {})]
    for model in PARTS:
        (shape,) = [
            one
            for one in shapes
            if one["properties"]["kind"]["const"] == kind_of(model)
            and set(one["properties"]) == set(model.model_fields)
        ]
        assert shape["description"]
        said = {name for name, field in shape["properties"].items() if field.get("description")}
        assert set(shape["properties"]) - said <= {"kind"}, kind_of(model)
