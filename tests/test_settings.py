"""Settings: from the environment, each documented, told with its origin, and nothing secret shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import Commands
from workers.settings import PREFIX, Settings, find_home, load_settings, origin_of
from workflows.errors import DefinitionError

SECRET = "hunter2"  # noqa: S105  the point of the test is that it is not shown


def rows(here: Commands) -> dict[str, dict[str, object]]:
    """The settings as `journeys settings --json` lists them, by variable."""
    said = here("settings", "--json")
    assert said.status == 0
    return {row["name"]: row for row in said.json["settings"]}


def test_each_setting_is_documented(tmp_path: Path) -> None:
    """Each setting has a description, and `journeys settings` lists it under its variable's name."""
    assert all(field.description for field in Settings.model_fields.values())
    listed = rows(Commands(tmp_path))
    assert list(listed) == [f"{PREFIX}{name}".upper() for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        row = listed[f"{PREFIX}{name}".upper()]
        assert set(row) == {"name", "value", "origin", "meaning"}
        assert row["meaning"] == field.description
        assert row["origin"] == "default"


def test_a_setting_tells_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting from the environment is told with its variable, and has its value and type."""
    monkeypatch.setenv("JOURNEYS_POLLERS", "7")
    monkeypatch.setenv("JOURNEYS_TIMEZONE", "Europe/Paris")
    listed = rows(Commands(tmp_path))
    assert (listed["JOURNEYS_POLLERS"]["value"], listed["JOURNEYS_POLLERS"]["origin"]) == (7, "JOURNEYS_POLLERS")
    assert listed["JOURNEYS_TIMEZONE"]["value"] == "Europe/Paris"
    assert listed["JOURNEYS_SANDBOX"]["value"] is False
    assert listed["JOURNEYS_DATABASE"]["value"] is None
    assert listed["JOURNEYS_HOME"]["value"] == str(tmp_path / ".journeys")
    people = Commands(tmp_path)("settings").out
    assert "JOURNEYS_POLLERS = 7   (from the environment)" in people
    assert "JOURNEYS_DATABASE = not set\n" in people
    assert origin_of("pollers", load_settings()) == "JOURNEYS_POLLERS"
    assert origin_of("sandbox", load_settings()) == "default"


def test_secrets_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is secret is never printed, neither by `settings` nor by the fault of a wrong value."""
    monkeypatch.setenv("JOURNEYS_DATABASE", f"postgresql://me:{SECRET}@db/journeys")
    monkeypatch.setenv("JOURNEYS_TABLE_OPTIONS", json.dumps({"AWS_SECRET_ACCESS_KEY": SECRET}))
    here = Commands(tmp_path)
    listed = rows(here)
    assert listed["JOURNEYS_DATABASE"]["value"] == "********"
    assert listed["JOURNEYS_TABLE_OPTIONS"]["value"] == {"AWS_SECRET_ACCESS_KEY": "********"}
    assert SECRET not in here("settings").out + here("settings", "--json").out
    assert SECRET not in repr(load_settings()) + str(load_settings())
    monkeypatch.setenv("JOURNEYS_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("JOURNEYS_PUSH_PROVIDER", "pigeon")  # a rule over several settings, secret ones among them
    several = here("settings", "--json")
    assert (several.status, several.errors[0]["path"]) == (2, "JOURNEYS_PUSH_PROVIDER")
    assert SECRET not in several.out + here("settings").err
    monkeypatch.setenv("JOURNEYS_PUSH_PROVIDER", "outbox")
    monkeypatch.setenv("JOURNEYS_TABLE_OPTIONS", f'["{SECRET}"]')
    wrong = here("settings", "--json")
    assert (wrong.status, wrong.errors[0]["path"]) == (2, "JOURNEYS_TABLE_OPTIONS")
    assert SECRET not in wrong.out


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOURNEYS_POLLERS", "many"),
        ("JOURNEYS_POLLERS", "0"),
        ("JOURNEYS_FRESHNESS_SECONDS", "-1"),
        ("JOURNEYS_TIMEZONE", "Paris"),
        ("JOURNEYS_PUSH_PROVIDER", "pigeon"),
        ("JOURNEYS_SANDBOX", "perhaps"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """A wrong value is a fault with the variable's name and the value."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(DefinitionError) as caught:
        load_settings()
    (fault,) = caught.value.faults
    assert (fault.code, fault.path) == ("wrong-setting", variable)
    assert repr(value) in fault.message
    assert fault.hint


def test_a_list_that_is_no_json_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that holds a list is written as JSON, and said to be."""
    monkeypatch.setenv("JOURNEYS_WEBPUSH_HOSTS", "a.example,b.example")
    with pytest.raises(DefinitionError) as caught:
        load_settings()
    (fault,) = caught.value.faults
    assert (fault.code, fault.path) == ("wrong-setting", "JOURNEYS_WEBPUSH_HOSTS")
    assert "JSON" in fault.message
    monkeypatch.setenv("JOURNEYS_WEBPUSH_HOSTS", '["a.example", "b.example"]')
    assert load_settings().webpush_hosts == ("a.example", "b.example")


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wrong settings are two faults."""
    monkeypatch.setenv("JOURNEYS_POLLERS", "many")
    monkeypatch.setenv("JOURNEYS_TIMEZONE", "Paris")
    with pytest.raises(DefinitionError) as caught:
        load_settings()
    assert {fault.path for fault in caught.value.faults} == {"JOURNEYS_POLLERS", "JOURNEYS_TIMEZONE"}


def test_the_home_is_found_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home is that of the nearest folder above that has one; else it will be in the current folder."""
    deep = tmp_path / "a/b/c"
    deep.mkdir(parents=True)
    assert find_home(deep) == deep / ".journeys"
    (tmp_path / ".journeys").mkdir()
    assert find_home(deep) == tmp_path / ".journeys"
    (tmp_path / "a/b/.journeys").write_text("a file is no home")
    assert find_home(deep) == tmp_path / ".journeys"
    (tmp_path / "a/.journeys").mkdir()
    assert find_home(deep) == tmp_path / "a/.journeys"
    monkeypatch.chdir(deep)
    assert load_settings().home == tmp_path / "a/.journeys"
    monkeypatch.setenv("JOURNEYS_HOME", "elsewhere")
    assert load_settings().home == deep / "elsewhere"
    monkeypatch.setenv("JOURNEYS_HOME", "")
    assert load_settings().home == tmp_path / "a/.journeys"


def test_commands_below_the_home_use_it(tmp_path: Path) -> None:
    """A command in a folder below works on the same home."""
    above = Commands(tmp_path)
    above.write("sub/users.csv", "user_id\nu1\n")
    below = Commands(tmp_path / "sub")
    (tmp_path / "sub/.journeys").rmdir()
    assert below("import", "users", "users.csv").status == 0
    assert above("tables", "--json").json["tables"][0]["rows"] == 1
    assert not (tmp_path / "sub/.journeys").exists()


def test_embedded_defaults_stay_in_the_home(tmp_path: Path) -> None:
    """Everything that the defaults keep is in the home, and one setting moves each of them elsewhere."""
    settings = Settings(home=tmp_path)
    kept = (
        settings.tables_root,
        settings.database_url.removeprefix("sqlite:///"),
        settings.snapshots,
        settings.rejects,
    )
    assert all(Path(one).is_relative_to(tmp_path) for one in kept)
    moved = Settings(home=tmp_path, tables="/elsewhere/tables", database="sqlite:////elsewhere/x.db")
    assert (moved.tables_root, moved.database_url) == ("/elsewhere/tables", "sqlite:////elsewhere/x.db")
