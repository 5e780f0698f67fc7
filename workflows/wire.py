"""The ground of what crosses the wire: names of queues and search attributes, ids of workflows, kinds of messages.

Fields of messages are added, never renamed or removed.
"""

from __future__ import annotations

from typing import Any, Literal, Self, TypeAlias
from urllib.parse import quote, unquote

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from temporalio.common import SearchAttributeKey

from workflows.errors import DefinitionError, Fault, RefusedError, as_application_error

JOURNEYS_QUEUE = "journeys"
"""Task queue of `Journey` alone, so that a backlog of users never delays an operator."""
USERS_QUEUE = "users"
"""Task queue of `UserJourney` and the activities that decide."""
PUSH_QUEUE = "push"
"""Task queue of pushes, rate-limited and retried on its own."""

JOURNEY_ID = SearchAttributeKey.for_keyword("JourneyId")
JOURNEY_VERSION = SearchAttributeKey.for_keyword("JourneyVersion")
JOURNEY_USER_ID = SearchAttributeKey.for_keyword("JourneyUserId")
JOURNEY_ELEMENT = SearchAttributeKey.for_keyword("JourneyElement")
SEARCH_ATTRIBUTES = (JOURNEY_ID, JOURNEY_VERSION, JOURNEY_USER_ID, JOURNEY_ELEMENT)
"""The first three are set when a workflow starts, the last when a run begins to wait; a worker creates them."""

WORKFLOW_ID_LIMIT = 1_000
"""Longest workflow id that a Temporal server takes (its dynamic setting `limit.maxIDLength`)."""

SUMMARY_BYTES = 200
"""Longest summary that is told: a Temporal server takes 400 bytes of one (`UserMetadata` in its API)."""

Due: TypeAlias = Literal["now", "shift", "skip"]
"""What becomes of what fell due in a pause: done at once, as much later as the pause lasted, or skipped."""

Inside: TypeAlias = Literal["keep", "move", "end"]
"""What becomes of those inside when a later version takes over: they finish theirs, go on in it, or leave."""

State: TypeAlias = Literal["draft", "running", "paused", "finished", "archived"]
"""Where a journey's life is: never started, admitting users, frozen, over, or put away."""

Versions: TypeAlias = dict[str, int]
"""Table name to the version that an answer was read from; -1 for a table that does not exist."""


class Wire(BaseModel):
    """What every message shares: immutable, and open to fields of a later version."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Given(Wire):
    """What a client starts a workflow with. Input that does not read fails the run, with the faults.

    Any other error would fail the workflow's task, which the server tries again for ever.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _readable(cls, data: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return read(data)
        except ValidationError as error:
            faults = [
                Fault(
                    code="wrong-input",
                    path=".".join(map(str, one["loc"])),
                    message=f"{str(one['input'])[:80]!r} is refused: {one['msg']}",
                    hint=f"the input is one JSON object with: {', '.join(cls.model_fields)}",
                )
                for one in error.errors(include_url=False)
            ]
            raise as_application_error(DefinitionError(faults)) from None


class Lean(Wire):
    """A message of one user's run: fields at their defaults are left out, since each user pays for every byte."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {name: value for name, value in dump(self).items() if getattr(self, name) != fields[name].default}


def summary_of(said: str) -> str:
    """Make the summary of a workflow, an activity or a timer: one line, cut where it is long."""
    return " ".join(said.split()).encode()[:SUMMARY_BYTES].decode(errors="ignore")


def journey_workflow_id(journey: str) -> str:
    """Give the workflow id of a journey.

    Args:
        journey: Its name.

    Returns:
        `journey/{journey}`.
    """
    return f"journey/{quote(journey, safe='')}"


def user_workflow_id(journey: str, user_id: str, key: str = "") -> str:
    """Give the workflow id of one user's run.

    Args:
        journey: The journey's name.
        user_id: The user.
        key: What else tells this run from others of the same user, such as an order id.

    Returns:
        `journey/{journey}/user/{user_id}`, with `/key/{key}` for keyed runs; each part percent-encoded.

    Raises:
        RefusedError: The id would be longer than Temporal takes.
    """
    found = f"{journey_workflow_id(journey)}/user/{quote(user_id, safe='')}" + (
        f"/key/{quote(key, safe='')}" if key else ""
    )
    if len(found) > WORKFLOW_ID_LIMIT:
        raise RefusedError(
            f"the user id {user_id[:40]!r}... makes a workflow id of {len(found)} characters; Temporal takes "
            f"{WORKFLOW_ID_LIMIT}: shorten the id",
            code="id-too-long",
        )
    return found


def user_of_workflow(workflow_id: str) -> tuple[str, str]:
    """Read who passes by a run from its workflow id.

    Args:
        workflow_id: As `user_workflow_id` gives it.

    Returns:
        User id and key; the key is empty for runs without one.
    """
    parts = workflow_id.split("/")
    return unquote(parts[3]), unquote(parts[5]) if len(parts) > 5 else ""
