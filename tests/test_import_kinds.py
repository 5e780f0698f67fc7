"""Of which type a column is: by what is stored, by what was asked for, by its name, or by its values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from activities.tables.schema_files import read_schema
from tests.desk import Desk
from workflows.errors import DefinitionError, ImportRefused


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("cells", "found"),
    [("x\ny", "string"), ("1.5\n2", "number"), ("yes\nno", "boolean"), ("2026-01-01\n", "date"), ("5 EUR\n", "price")],
)
def test_type_change_is_refused(desk: Desk, cells: str, found: str) -> None:
    """A column whose values are of another kind than the stored one refuses the file, naming both, writing nothing."""
    desk.load("users", "user_id,age\na,1\n")
    lines = "".join(f"u{number},{cell}\n" for number, cell in enumerate(cells.split("\n")))
    with pytest.raises(ImportRefused, match=f"'age' of the table users is of type integer.* of type {found}: .*line 2"):
        desk.load("users", "user_id,age\n" + lines)
    assert desk.rows("users") == [("a", 1)]


def test_stored_kinds_and_overrides_win_over_inference(desk: Desk) -> None:
    """Values that read as the stored kind, or the one asked for, are of that kind, whatever they look like."""
    desk.load("users", "user_id,vip,code,size\na,1,12,3\n", vip="boolean", code="string", size="number")
    desk.load("users", "user_id,vip,code,size\nb,0,034,4\n")
    assert desk.rows("users") == [("a", True, "12", 3.0), ("b", False, "034", 4.0)]
    with pytest.raises(ImportRefused, match="'vip' of the table users is of type boolean"):
        desk.load("users", "user_id,vip\nc,1\n", vip="integer")
    with pytest.raises(ImportRefused, match="no column 'vpi'"):
        desk.load("users", "user_id,vip\nc,1\n", vpi="integer")


@pytest.mark.parametrize("text", ["columns: {zip: string, app: Version}\n", "zip: string\napp: version # as it is\n"])
def test_a_schema_file_decides_where_inference_would_guess(desk: Desk, text: str) -> None:
    """Types from a YAML file win over what values look like, and a stored column of another type is refused."""
    kinds = read_schema(desk.file(text, "types.yaml"))
    assert kinds == {"zip": "string", "app": "version"}
    desk.load("users", "user_id,zip,app,age\na,75001,1.10,3\n", **kinds)
    assert desk.tables.schema("users") == {"user_id": "string", "zip": "string", "app": "version", "age": "integer"}
    changed = read_schema(desk.file("columns:\n  age: string\n", "types.yaml"))
    with pytest.raises(
        ImportRefused, match=r"'age' of the table users is of type integer, and the schema asks for string"
    ):
        desk.load("users", "user_id,age\na,3\n", **changed)
    with pytest.raises(ImportRefused, match="no column 'zpi'; the header is: 'user_id', 'zip'") as absent:
        desk.load("users", "user_id,zip\na,1\n", **read_schema(desk.file("zpi: string\n", "types.yaml")))
    assert "Rename 'zip' to 'zpi'" in absent.value.hint
    assert desk.tables.version("users") == 0


def test_a_schema_that_does_not_fit_the_file_is_told_as_that(desk: Desk) -> None:
    """Values that are not of the type asked for blame the schema, not a table that does not have the column."""
    with pytest.raises(ImportRefused) as unfit:
        desk.load("users", "user_id,zip\na,2A001\nb,20B\n", zip="integer")
    assert unfit.value.message == (
        "the schema asks for type integer of the column 'zip', and the values are of type string: '2A001' on line 2"
    )
    assert unfit.value.hint == "Change the type of 'zip' to string in the schema, or give values that read as integer."
    desk.load("users", "user_id,zip\na,75001\n", zip="integer")
    with pytest.raises(
        ImportRefused, match="'zip' of the table users is of type integer, and the new values"
    ) as stored:
        desk.load("users", "user_id,zip\na,2A001\n", zip="integer")
    assert "schema" not in stored.value.message + stored.value.hint


def test_faults_of_a_schema_file(desk: Desk) -> None:
    """Each unknown type is a fault with its line and the nearest type; what is no schema says what one looks like."""
    path = desk.file("columns:\n  zip: strnig\n  app: {is: version}\n  ok: date\nother: 1\n", "types.yaml")
    with pytest.raises(DefinitionError) as wrong:
        read_schema(path)
    assert [(fault.path, fault.line, fault.message) for fault in wrong.value.faults] == [
        ("other", 5, "beside `columns` nothing else is read"),
        ("columns.zip", 2, "'strnig' is no type"),
        ("columns.app", 3, "{'is': 'version'} is no type"),
    ]
    assert wrong.value.faults[1].hint == "did you mean `string`?"
    assert wrong.value.faults[2].hint.startswith("the types are: integer, number, string")
    with pytest.raises(DefinitionError, match=r"types\.yaml:2"):
        read_schema(desk.file("a: string\na: date\n", "types.yaml"))
    for empty in ("", "columns: {}\n", "- zip\n"):
        with pytest.raises(ImportRefused, match="holds no types of columns"):
            read_schema(desk.file(empty, "types.yaml"))
    with pytest.raises(ImportRefused, match="cannot read"):
        read_schema(desk.folder / "absent.yaml")


def test_the_schema_option(desk: Desk) -> None:
    """`journeys import --schema` types the columns, and a wrong schema imports nothing."""
    desk.file("user_id,zip\na,75001\n", "users.csv")
    desk.file("zip: string\n", "good.yaml")
    desk.file("zip: strnig\n", "bad.yaml")

    def run(schema: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "scripts.cli", "import", "users", str(desk.folder / "users.csv"), "--json"]
        done = subprocess.run(
            [*command, "--schema", str(desk.folder / schema)],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "JOURNEYS_HOME": str(desk.folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, json.loads(done.stdout)

    status, failure = run("bad.yaml")
    assert (status, failure["errors"][0]["line"], failure["errors"][0]["path"]) == (2, 1, "zip")
    assert run("good.yaml")[1]["inserted"] == 1
    assert desk.tables.schema("users")["zip"] == "string"


def test_kinds_by_name(desk: Desk) -> None:
    """Versions, languages and opt-in are what their names say: `1.10` is no number and `no` is Norwegian."""
    report = desk.load("users", "user_id,app_version,language,opt_in,api_version\na,1.10,no,1,beta\n")
    assert list(desk.tables.schema("users").values())[1:] == ["version", "string", "boolean", "string"]
    assert report.warnings == ["the column 'api_version' is of type string, not version: 'beta' on line 2"]


def test_columns_without_a_value(desk: Desk) -> None:
    """A column of empty cells is left out with a warning, unless its kind is known: then it clears."""
    report = desk.load("users", "user_id,plan\na,\n")
    assert report.warnings == ["the column 'plan' has no value, so that its type is unknown: it was left out"]
    desk.load("users", "user_id,plan\na,pro\n")
    assert desk.load("users", "user_id,plan\na,\n").updated == 1
    assert desk.rows("users") == [("a", None)]
