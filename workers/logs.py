"""Logs: lines of text or of JSON, each with the journey, run, element and user that it is about.

What a line is about comes from the task that is running, not from who logs: nothing passes a context along.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
from ast import literal_eval
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from temporalio import activity, workflow
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from workers.connecting import connect_config
from workers.settings import LogUsers, Settings, temporal_environment
from workers.settings_file import TEMPORAL_SECRETS
from workflows.contracts import JOURNEY_VERSION, user_of_workflow
from workflows.errors import RefusedError

USER_OF_RUN = re.compile(r"""(journey/[^/\s'"]+/user/)([^/\s'",;)}\]]+)""")
"""A user's id within a workflow id, wherever it stands in a text."""
USER_NAMED = re.compile(r"""(\busers? (?:id )?)('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")""")
"""A user's id in a message: all of ours quote it behind the word, and a test holds them to that."""
DETAIL = re.compile(r"\bDETAIL: .*")
"""PostgreSQL's line about the row that it refuses, with its values."""
MASK = "********"
SHORTEST_SECRET = 6
"""Shortest text that is masked as a secret: masking a shorter one would hide half of every line."""

ASKED = {"journey": "journey", "version": "version", "element": "element", "entry": "element", "user_id": "user"}
"""What a line takes from that which an activity was asked, and how it is called there."""

_asked: ContextVar[object] = ContextVar("asked", default=None)
"""What the running activity was asked."""


class TaskLogging(Interceptor):
    """Keeps what an activity was asked, so that its lines tell the element and version."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Stand before every activity."""
        return _Keeping(next)


class _Keeping(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        # Not reset: the SDK logs the failure after this returns, in the same task, which ends with it.
        _asked.set(input.args[0] if input.args else None)
        return await super().execute_activity(input)


def set_up_logs(settings: Settings | None) -> None:
    """Send all logs to standard error, as the settings say.

    Args:
        settings: Format, how users are shown, and what is secret; null before they could be read: plain text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(settings))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # The SDK's details of the task would stand in each message, with the user's id: `LineFormatter` adds its own.
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False


class LineFormatter(logging.Formatter):
    """Writes one record as one line.

    JSON lines have `time` (RFC 3339, UTC), `level`, `logger`, `message`, and where they apply `journey`, `version`,
    `element`, `user`, `workflow_id`, `run_id`, `activity`, `attempt` and `error`, the traceback. What is absent is left
    out. No line holds a secret of the settings; unless users are shown plainly, none holds the id of its task's user,
    of a run, or of another user whom one of our messages names.

    Args:
        settings: Format, how users are shown, and what is secret; null: text, users hashed.
    """

    def __init__(self, settings: Settings | None) -> None:
        super().__init__()
        self._json = settings is not None and settings.log_format == "json"
        self._users: LogUsers = "hashed" if settings is None else settings.log_users
        self._secrets = [] if settings is None else secrets_of(settings)

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        about = context_of(record)
        user = about.pop("user", "")
        if shown := shown_user(user, self._users):
            about["user"] = shown
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = record.getMessage()
        error = self.formatException(record.exc_info) if record.exc_info else ""
        if self._json:
            line = {"time": at, "level": record.levelname, "logger": record.name, "message": message, **about}
            if error:
                line["error"] = error
            cleaned = {key: self._clean(value, user) for key, value in line.items()}
            return json.dumps(cleaned, ensure_ascii=False)
        where = " ".join(f"{key}={value}" for key, value in about.items())
        text = f"{at} {record.levelname} {record.name} {message}{f' [{where}]' if where else ''}"
        return str(self._clean(f"{text}\n{error}" if error else text, user))

    def _clean(self, value: object, user: str) -> object:
        """Take secrets out of a text, and users unless they are shown plainly."""
        if not isinstance(value, str):
            return value
        for secret in self._secrets:
            value = value.replace(secret, MASK)
        if self._users == "plain":
            return value
        if user:
            own = "|".join(re.escape(form) for form in {user, quote(user, safe="")})
            value = re.sub(rf"(?<![\w-])(?:{own})(?![\w-])", shown_user(user, self._users) or MASK, value)
        value = USER_OF_RUN.sub(lambda found: found[1] + self._shown(found[2], in_id=True), value)
        value = USER_NAMED.sub(lambda found: f"{found[1]}'{self._shown(_unquoted(found[2]))}'", value)
        return DETAIL.sub(f"DETAIL: {MASK}", value)

    def _shown(self, user: str, *, in_id: bool = False) -> str:
        if user == MASK or re.fullmatch(HASHED, user):
            return user
        return shown_user(user_of_workflow(f"journey/x/user/{user}")[0] if in_id else user, self._users) or MASK


def _unquoted(text: str) -> str:
    """Undo `repr`, so that an id is hashed as it is elsewhere; what only looks like one is taken as it stands."""
    try:
        return str(literal_eval(text))
    except (SyntaxError, ValueError):
        return text[1:-1]


HASHED = r"user-[0-9a-f]{16}"


def shown_user(user: str, how: LogUsers) -> str:
    """Show a user's id as the setting JOURNEYS_LOG_USERS says.

    Args:
        user: The id; may be empty.
        how: `plain`, `hashed` or `omitted`.

    Returns:
        The id; or `user-` and the first 16 hexadecimal digits of its SHA-256, the same in every process; or nothing.
    """
    if not user or how == "omitted":
        return ""
    return user if how == "plain" else f"user-{hashlib.sha256(user.encode()).hexdigest()[:16]}"


def context_of(record: logging.LogRecord) -> dict[str, Any]:
    """Tell what a record is about, from the task that is running."""
    run: dict[str, Any] = {}
    about: dict[str, Any] = {}
    if activity.in_activity():
        info = activity.info()
        run = {"workflow_id": info.workflow_id, "run_id": info.workflow_run_id}
        about = {"activity": info.activity_type, "attempt": info.attempt}
        asked = _asked.get()
        for name, key in ASKED.items():
            if value := getattr(asked, name, None):
                about.setdefault(key, value)
    elif workflow.in_workflow():
        told = workflow.info()
        run = {"workflow_id": told.workflow_id, "run_id": told.run_id}
        if version := told.typed_search_attributes.get(JOURNEY_VERSION):
            about["version"] = int(version) if version.isdigit() else version
    elif isinstance(details := getattr(record, "temporal_workflow", None), dict):
        run = {key: details.get(key) for key in ("workflow_id", "run_id")}
    parts = str(run.get("workflow_id") or "").split("/")
    if parts[0] == "journey" and len(parts) > 1:
        about.setdefault("journey", parts[1])
        if len(parts) > 3:
            about.setdefault("user", user_of_workflow("/".join(parts))[0])
    return {**about, **{key: value for key, value in run.items() if value}}


def secrets_of(settings: Settings) -> list[str]:
    """List the texts that must never be logged, the longest first."""
    found: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for one in value.values() if isinstance(value, dict) else (value,):
            if isinstance(one, SecretStr):
                found.add(one.get_secret_value())
    said = temporal_environment(settings)
    found |= {said.get(name, "") for name in TEMPORAL_SECRETS}
    with suppress(RefusedError):  # the API key may stand in Temporal's own file
        found.add(connect_config(settings).get("api_key") or "")
    with suppress(ArgumentError):
        found.add(make_url(settings.database_url).password or "")
    return sorted((secret for secret in found if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)
