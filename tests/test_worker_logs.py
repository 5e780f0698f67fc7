"""A worker's log lines: what they tell, how they show users, and that no secret stands in any output."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import re
import traceback
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import insert
from temporalio.client import WorkflowFailureError

from activities.records.database import Database
from activities.records.rows import journeys
from tests.commands import ROOT, Commands
from tests.house import House
from tests.test_worker_process import run, worker
from tests.worker_that_dies import until
from workers.logs import LineFormatter, shown_user
from workers.settings import LogUsers, Settings
from workflows.contracts import USERS_QUEUE, UserJourneyInput
from workflows.errors import StoreUnavailable

MARKER = "zugzwang-in-a-lost-endgame"
AT_ANY_TIME = {"JOURNEYS_PUSH_KEEP_OFF": "false"}
"""Has pushes sent around the quarter hours too, when tests run as well."""
HASHED = re.compile(r"user-[0-9a-f]{16}")


def lines_of(said: str) -> list[dict[str, Any]]:
    """Read every line as JSON."""
    return [json.loads(line) for line in said.splitlines()]


async def failing_run(house: House, user: str, **settings: str) -> str:
    """Have a push of a user fail for want of its provider, and give what the worker said."""
    house.load("users", f"user_id,plan,age\n{user},paid,40\n")
    house.load("devices", f"device_id,user_id,platform,token,opt_in,provider\nx1,{user},ios,t,true,fcm\n")
    async with worker(house, **AT_ANY_TIME, **settings) as served:
        client = await house.client()
        await house.engine.start("hello", client=client)
        await until(lambda: "Completing activity as failed" in served.said)
        await served.told_to_stop()
        return served.said


async def test_json_lines_tell_what_they_are_about(house: House) -> None:
    """Each line is one JSON object; that of a failing push has journey, version, run, element, user and traceback."""
    said = await failing_run(house, "lena", JOURNEYS_LOG_FORMAT="json", JOURNEYS_LOG_USERS="plain")
    lines = lines_of(said)
    assert all(set(line) >= {"time", "level", "logger", "message"} for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    failed = next(line for line in lines if line["message"] == "Completing activity as failed")
    assert failed["level"] == "WARNING"
    about = {key: failed[key] for key in ("journey", "version", "element", "user", "activity", "workflow_id")}
    assert about == {
        "journey": "hello",
        "version": 1,
        "element": "promo",
        "user": "lena",
        "activity": "push",
        "workflow_id": "journey/hello/user/lena",
    }
    assert re.fullmatch(r"[0-9a-f-]{36}", failed["run_id"])
    assert failed["attempt"] >= 1
    assert "names the provider 'fcm'" in failed["error"]
    assert "run_id" not in lines[0]


async def test_users_are_hashed_unless_told_otherwise(house: House) -> None:
    """By default no line holds a user's id, neither by itself nor in a workflow id; the same user has the same name."""
    said = await failing_run(house, "lena@example.org", JOURNEYS_LOG_FORMAT="json")
    assert "lena" not in said
    failed = next(line for line in lines_of(said) if line["message"] == "Completing activity as failed")
    assert failed["user"] == shown_user("lena@example.org", "hashed")
    assert failed["workflow_id"] == f"journey/hello/user/{failed['user']}"


async def test_users_can_be_omitted(house: House) -> None:
    """Omitted, a line names no user at all, and still the run."""
    said = await failing_run(house, "lena", JOURNEYS_LOG_FORMAT="text", JOURNEYS_LOG_USERS="omitted")
    assert "lena" not in said
    assert not HASHED.search(said)
    assert "workflow_id=journey/hello/user/******** run_id=" in said


async def test_a_workflow_that_fails_its_task_is_told_with_its_run(house: House) -> None:
    """A failing workflow task, logged by the SDK, has journey and run, and its user hashed within the message."""
    async with worker(house, JOURNEYS_LOG_FORMAT="json") as served:
        client = await house.client()
        given = {"journey": "hello", "user_id": "lena", "passage": "p1", "digest": "d", "routes": {"a": {"kind": 7}}}
        run_id = "journey/hello/user/lena"
        handle = await client.start_workflow("UserJourney", given, id=run_id, task_queue=USERS_QUEUE)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        unknown = UserJourneyInput(journey="nowhere", user_id="lena")
        other = await client.start_workflow(
            "UserJourney", unknown, id="journey/nowhere/user/lena", task_queue=USERS_QUEUE
        )
        with pytest.raises(WorkflowFailureError):
            await other.result()
        await until(lambda: "was never started" in served.said)
        await served.told_to_stop()
    assert "lena" not in served.said
    line = next(line for line in lines_of(served.said) if "was never started" in line.get("error", ""))
    assert (line["journey"], line["activity"]) == ("nowhere", "entry")


def formatted(settings: Settings, message: str) -> str:
    """One line as a worker with these settings writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(settings))
    handler.emit(logging.LogRecord("x", logging.INFO, __file__, 1, message, (), None))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("plain", "run 'journey/a/user/b%2Fc' and journey/a/user/d/key/e"),
        (
            "hashed",
            f"run 'journey/a/user/{shown_user('b/c', 'hashed')}' and journey/a/user/{shown_user('d', 'hashed')}/key/e",
        ),
        ("omitted", "run 'journey/a/user/********' and journey/a/user/********/key/e"),
    ],
)
def test_runs_in_a_text_are_shown_as_users_are(tmp_path: Path, how: LogUsers, expected: str) -> None:
    """Workflow ids within any message show users as the setting says, percent-encoding undone before hashing."""
    settings = Settings(home=tmp_path, log_users=how)
    line = formatted(settings, "run 'journey/a/user/b%2Fc' and journey/a/user/d/key/e")
    assert expected in line


@pytest.mark.parametrize("user", ["u7", "it's", 'a "b" c', "back\\slash", "lena@example.org", "\u00e9"])
def test_users_whom_a_message_names_are_shown_as_the_task_s_own(tmp_path: Path, user: str) -> None:
    """An id that a message quotes behind "user" is hashed like any other; what only looks like one breaks nothing."""
    other = "x\\xz"  # an escape that is none
    line = formatted(Settings(home=tmp_path), f"the user {user!r} is not inside 'hello', and user '{other}' neither")
    mine, others = shown_user(user, "hashed"), shown_user(other, "hashed")
    assert line.rstrip().endswith(f"the user '{mine}' is not inside 'hello', and user '{others}' neither")
    assert f"the user {user!r} is" in formatted(Settings(home=tmp_path, log_users="plain"), f"the user {user!r} is")
    assert "the user '********' is" in formatted(Settings(home=tmp_path, log_users="omitted"), f"the user {user!r} is")


def test_our_messages_name_users_where_the_log_finds_them() -> None:
    """Each message of ours that quotes a user's id quotes it right behind "user" or "user id"."""
    named = re.compile(r"(?:^|[._])user(?:_id)?(?:\[.*\])?$")
    files = [file for layer in ("workflows", "activities", "workers") for file in (ROOT / layer).rglob("*.py")]
    texts = [
        node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.JoinedStr)
    ]
    quoted = 0
    for before, value in (pair for text in texts for pair in pairwise([ast.Constant(""), *text.values])):
        if not isinstance(value, ast.FormattedValue) or value.conversion != ord("r"):
            continue
        if named.search(ast.unparse(value.value).partition("[:")[0]):
            quoted += 1
            said = before.value if isinstance(before, ast.Constant) else ""
            assert re.search(r"\busers? (?:id )?$", str(said)), ast.unparse(value)
    assert quoted > 5


def test_what_a_database_refuses_is_told_without_its_values(database_url: str, tmp_path: Path) -> None:
    """The failure of a statement, as it is logged, holds no parameter of it, and no value of the row."""
    with closing(Database(database_url)) as database:
        database.create()
        row = dict.fromkeys(("digest", "state", "launch", "changed_at"), "") | {"journey": MARKER, "version": 1}
        statement = insert(journeys).values(**row)
        with pytest.raises(StoreUnavailable) as caught:
            database.read(lambda connection: [connection.execute(statement) for _ in range(2)])
    told = "".join(traceback.format_exception(caught.value))
    assert "INSERT INTO journeys" in told
    assert MARKER not in str(caught.value)
    assert MARKER not in formatted(Settings(home=tmp_path), told)


def test_a_secret_is_masked_in_whatever_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of any library that quotes a secret has it masked, a password within an address and Temporal's too."""
    monkeypatch.setenv("TEMPORAL_API_KEY", "open-sesame")
    settings = Settings(
        home=tmp_path,
        database=SecretStr(f"postgresql+psycopg://me:{MARKER}@db/x"),
        webhook_url="https://example.org",
        webhook_secret=SecretStr("hush-hush"),
    )
    line = formatted(settings, f"sent hush-hush to postgresql+psycopg://me:{MARKER}@db/x as open-sesame")
    assert line.rstrip().endswith("sent ******** to ******** as ********")


def secret_settings() -> dict[str, str]:
    """Each secret setting with a value that holds the marker and works, or is at least read."""
    given = {
        "JOURNEYS_TABLE_OPTIONS": json.dumps({"AWS_SECRET_ACCESS_KEY": MARKER}),
        "JOURNEYS_WEBHOOK_SECRET": MARKER,
        "JOURNEYS_WEBHOOK_URL": "https://127.0.0.1:9/push",
        "JOURNEYS_PUSHWOOSH_TOKEN": MARKER,
        "JOURNEYS_PUSHWOOSH_APPLICATION": "AAAAA-00000",
    }
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    for name in secret - {"database"}:
        given.setdefault(f"JOURNEYS_{name}".upper(), MARKER)
    assert len(secret) >= 4
    return given


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_is_logged_by_a_worker_that_fails_at_everything(house: House, form: str) -> None:
    """With every secret set, a worker whose pushes all fail says none of them on any stream."""
    house.load("devices", "device_id,user_id,platform,token,opt_in,provider\nx1,u1,ios,t,true,webhook\n")
    settings = {
        **AT_ANY_TIME,
        **secret_settings(),
        "JOURNEYS_LOG_FORMAT": form,
        "TEMPORAL_API_KEY": MARKER,
        "TEMPORAL_TLS": "false",
    }
    async with worker(house, **settings) as served:
        client = await house.client()
        await house.engine.start("hello", client=client)
        await until(lambda: "Completing activity as failed" in served.said)
        await asyncio.sleep(0.2)
        await served.told_to_stop()
    assert MARKER not in served.said


@pytest.mark.parametrize(
    "wrong",
    [
        {"JOURNEYS_DATABASE": f"postgresql+psycopg://me:{MARKER}@127.0.0.1:1/x"},
        {"JOURNEYS_DATABASE": f"{MARKER}://me@127.0.0.1/x"},
        {"JOURNEYS_DATABASE": MARKER},
        {"JOURNEYS_TABLE_OPTIONS": f"[{MARKER}"},
        {"JOURNEYS_POLLERS": "none"},
        {"JOURNEYS_WEBHOOK_URL": "ftp://x"},
    ],
)
def test_no_secret_stands_in_an_error(tmp_path: Path, wrong: dict[str, str]) -> None:
    """A worker that cannot start says why without quoting any secret, and so does every command."""
    ended = run(tmp_path / "home", **{**secret_settings(), **wrong})
    assert ended.returncode in (1, 2), ended.stderr
    assert MARKER not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_secret_is_shown_by_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`journeys settings`, for people and as JSON, masks each secret that is set."""
    for name, value in {**secret_settings(), "JOURNEYS_DATABASE": f"postgresql://me:{MARKER}@db/x"}.items():
        monkeypatch.setenv(name, value)
    here = Commands(tmp_path)
    for words in (("settings",), ("settings", "--json")):
        said = here(*words)
        assert said.status == 0
        assert MARKER not in said.out + said.err
