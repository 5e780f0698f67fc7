"""The README says what is true: its blocks run or check, its commands exist, its picture is there."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from activities.documents.checking import check_documents
from activities.documents.reading import read_text
from scripts.cli import journeys
from tests.house import House
from workers.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
