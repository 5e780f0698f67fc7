"""The file of settings: the environment wins over it, what it misspells is found, and what it keeps secret stays so."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands import Commands
from tests.test_connecting import configure
from workers.connecting import connect_config
from workers.diagnosis import settings_file
from workers.settings import child_environment, load_settings
from workflows.errors import DefinitionError, Fault

SECRET = "zwischenzug"  # noqa: S105  the point of the tests is that it is not shown

SHARED = f"""\
# What every worker of this machine shares.
JOURNEYS_POLLERS=7

JOURNEYS_DATABASE=postgresql://me:{SECRET}@db/journeys
JOURNEYS_TABLE_OPTIONS={{"AWS_REGION": "eu-west-3", "AWS_SECRET_ACCESS_KEY": "{SECRET}"}}
JOURNEYS_WEBHOOK_HOSTS=["crm.internal"]
JOURNEYS_WEBHOOK_SECRET=pa${{HOME}}$word#1
TEMPORAL_ADDRESS=temporal.example:7233
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A folder with a home, where commands and settings are read."""
    found = Commands(tmp_path)
    monkeypatch.chdir(tmp_path)
    return found


def faults() -> list[Fault]:
    with pytest.raises(DefinitionError) as caught:
        load_settings()
    return caught.value.faults


def test_the_homes_file_is_read_and_the_environment_wins(here: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """settings.env of the home sets what the environment does not, each value as it stands and typed as there."""
    file = here.write(".journeys/settings.env", SHARED)
    monkeypatch.setenv("JOURNEYS_WEBHOOK_HOSTS", '["other.internal"]')
    settings = load_settings()
    assert settings.settings_file == file
    assert (settings.pollers, settings.webhook_hosts) == (7, ("other.internal",))
    assert settings.database_url == f"postgresql://me:{SECRET}@db/journeys"
    assert settings.storage_options == {"AWS_REGION": "eu-west-3", "AWS_SECRET_ACCESS_KEY": SECRET}
    assert settings.webhook_secret is not None
    assert settings.webhook_secret.get_secret_value() == "pa${HOME}$word#1"
    assert load_settings(pollers=9).pollers == 9


def test_the_connection_to_temporal_may_stand_in_the_file(here: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """TEMPORAL_ variables of the file are read as those of the environment are, which win."""
    here.write(".journeys/settings.env", SHARED)
    assert connect_config(load_settings())["target_host"] == "temporal.example:7233"
    configure(monkeypatch, TEMPORAL_ADDRESS="other.example:7233")
    assert connect_config(load_settings())["target_host"] == "other.example:7233"


def test_a_file_that_is_named_may_say_where_the_home_is(here: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named file is read in place of the home's, wherever it is, and programs started beside this one read it too."""
    here.write(".journeys/settings.env", "JOURNEYS_POLLERS=3\n")
    file = here.write("etc/worker.env", f"JOURNEYS_HOME={here.folder}/elsewhere\nJOURNEYS_POLLERS=5\n")
    monkeypatch.setenv("JOURNEYS_SETTINGS_FILE", "etc/worker.env")
    settings = load_settings()
    assert (settings.home, settings.pollers) == (here.folder / "elsewhere", 5)
    assert child_environment(settings)["JOURNEYS_SETTINGS_FILE"] == str(file)
    listed = {row["name"]: row for row in here("settings", "--json").json["settings"]}
    assert listed["JOURNEYS_POLLERS"]["origin"] == str(file)
    assert listed["JOURNEYS_SETTINGS_FILE"]["origin"] == "JOURNEYS_SETTINGS_FILE"
    assert listed["JOURNEYS_TIMEZONE"]["origin"] == "default"
    assert f"JOURNEYS_POLLERS = 5   ({file})" in here("settings").out


@pytest.mark.parametrize(
    ("text", "name", "line", "told"),
    [
        ("JOURNEYS_DATABSE=x", "JOURNEYS_DATABSE", 1, "'JOURNEYS_DATABASE'"),
        ("# a comment\n\nTEMPORAL_ADRESS=x", "TEMPORAL_ADRESS", 3, "'TEMPORAL_ADDRESS'"),
        ("journeys_pollers=2", "journeys_pollers", 1, "'JOURNEYS_POLLERS'"),
        ("AWS_REGION=x", "AWS_REGION", 1, "only JOURNEYS_* and TEMPORAL_*"),
        ("JOURNEYS_POLLERS=2\nJOURNEYS_POLLERS=3", "JOURNEYS_POLLERS", 2, "after line 1"),
        ("JOURNEYS_POLLERS", "JOURNEYS_SETTINGS_FILE", 1, "NAME=value"),
        ("JOURNEYS_POLLERS=many", "JOURNEYS_POLLERS", 1, "'many'"),
        ("JOURNEYS_HOME=/elsewhere", "JOURNEYS_HOME", 1, "cannot say where the home is"),
        ("JOURNEYS_SETTINGS_FILE=x.env", "JOURNEYS_SETTINGS_FILE", 1, "unknown setting"),
    ],
)
def test_a_line_that_cannot_be_used_is_told(here: Commands, text: str, name: str, line: int, told: str) -> None:
    """A misspelt name, a name twice, a line that is none and a wrong value are faults with file, line and hint."""
    file = here.write(".journeys/settings.env", text + "\n")
    (fault,) = faults()
    assert (fault.code, fault.path, fault.file, fault.line) == ("wrong-setting", name, str(file), line)
    assert told in fault.message + fault.hint


def test_all_lines_are_told_at_once_and_none_is_quoted(here: Commands) -> None:
    """Faults of names and of values come together, and what may be a secret is not in them."""
    here.write(".journeys/settings.env", f"JOURNEYS_DATABSE={SECRET}\n'{SECRET}\nJOURNEYS_POLLERS=0\n")
    assert [fault.line for fault in faults()] == [1, 2, 3]
    said = here("settings", "--json")
    assert said.status == 2
    assert SECRET not in said.out + here("settings").err


def test_a_file_that_cannot_be_read_is_told(here: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named file that is missing, is no text or is huge is a fault, never passed over."""
    monkeypatch.setenv("JOURNEYS_SETTINGS_FILE", "worker.env")
    for write, told in (
        (lambda: None, "No such file"),
        (lambda: here.write("worker.env", b"JOURNEYS_POLLERS=\xff\n"), "UTF-8"),
        (lambda: here.write("worker.env", b"#" * (2 << 20)), "larger than"),
    ):
        write()
        (fault,) = faults()
        assert told in fault.message


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=60), st.text(st.sampled_from("JOURNEYS_POLLERS=\n\r\0#'\" ${}\\x"), max_size=60)))
def test_any_bytes_are_settings_or_refused(here: Commands, content: bytes | str) -> None:
    """Whatever a file of settings holds, it is read or refused by one of our errors."""
    here.write(".journeys/settings.env", content if isinstance(content, bytes) else content.encode())
    with suppress(DefinitionError):
        load_settings()


def test_a_file_of_another_user_is_not_obeyed(here: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was only found, and that another user made, is refused: it could name programs to start."""
    file = here.write(".journeys/settings.env", "JOURNEYS_SERVER=/opt/mine\n")
    assert load_settings().server == Path("/opt/mine")
    if os.geteuid() == 0:
        os.chown(file, 12_345, -1)
    else:
        monkeypatch.setattr("os.geteuid", lambda: file.stat().st_uid + 1)
    assert "another user" in faults()[0].message
    monkeypatch.setenv("JOURNEYS_SETTINGS_FILE", str(file))
    assert load_settings().server == Path("/opt/mine")


def test_doctor_tells_of_secrets_that_all_can_read(here: Commands) -> None:
    """A file with a secret that other users can read is wrong, with the command that mends it; others are fine."""
    file = here.write(".journeys/settings.env", SHARED)
    file.chmod(0o644)
    found = settings_file(load_settings())
    assert not found.ok
    assert "JOURNEYS_DATABASE" in found.message
    assert found.hint == f"chmod 600 {file}"
    assert SECRET not in found.message
    file.chmod(0o640)
    assert settings_file(load_settings()).ok
    file.write_text("JOURNEYS_POLLERS=7\n")
    file.chmod(0o644)
    assert settings_file(load_settings()).ok
