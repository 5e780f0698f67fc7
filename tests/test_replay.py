"""Recorded histories replay on today's code, without a server: runs that are under way survive a deployment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from tests.test_budget import kind_of
from workers.plugin import JourneysPlugin
from workflows.contracts import ENGINE, JourneyInput, Outcome, Stats, UserJourneyInput, UserJourneyResult, Visit
from workflows.graph import Route
from workflows.journey import NO_INPUT, Journey
from workflows.user_journey import WORK, UserJourney

HISTORIES = Path(__file__).parent / "histories"
SHAPES = {
    "pushed-user": ["entry", "condition-split", "push"],
    "other-user": ["entry", "condition-split"],
    "refused-user": ["entry"],
    "came-user": ["wait-for-trigger", "timer started", "signal event", "timer canceled", "wait-for-trigger", "push"],
    "late-user": ["wait-for-trigger", "timer started", "timer fired", "wait-for-trigger", "push"],
    "held-user": ["push", "signal resumed", "push"],
    "moved-user-before": [
        "wait-for-trigger",
        "timer started",
        "signal resumed",
        "wait-for-trigger",
        "continued as new",
    ],
    "moved-user-after": ["wait-for-trigger", "timer started", "signal event", "wait-for-trigger", "push"],
    "sent-user": ["push"],
    "removed-user": ["timer started", "signal remove", "timer canceled", "leave"],
    "journey": ["open-journey", "evaluate-audience", "enrol", "wait-until-empty", "close-journey"],
    "operated-journey": [
        *("open-journey", "update enter", "enter", "update pause", "pause-journey", "update resume", "resume-journey"),
        *("update revise", "revise-journey", "update move", "move", "update remove", "take-out"),
        *("update refresh", "count", "update finish", "finish-journey", "close-journey"),
    ],
    "scheduled-journey": ["open-journey", "set-schedules", "finish-journey", "set-schedules", "close-journey"],
    "enrolment": ["begin-enrolment", "evaluate-audience", "enrol"],
}
"""What happened in each recorded run, in this order, whatever else did between."""


def recorded(kind: str) -> WorkflowHistory:
    text = (HISTORIES / f"{kind}.engine-{ENGINE}.json").read_text(encoding="utf-8")
    return WorkflowHistory.from_json(kind, text)


def replayer() -> Replayer:
    # The plugin brings the workflows; a replayer wants at least one to be given.
    return Replayer(workflows=[], plugins=[JourneysPlugin()])


@pytest.mark.parametrize("path", sorted(HISTORIES.glob("*.json")), ids=lambda path: path.stem)
async def test_recorded_histories_replay(path: Path) -> None:
    """Every recorded history, of this engine and of earlier ones, replays in the sandbox by the plugin's workflows."""
    history = WorkflowHistory.from_json(path.stem, path.read_text(encoding="utf-8"))
    result = await replayer().replay_workflow(history)
    assert result.replay_failure is None


def happened(history: WorkflowHistory) -> list[str]:
    """List what a run did and what was done to it: activities, local or not, timers, signals, updates, and the end."""
    found: list[str] = []
    for event in history.events:
        match kind_of(event):
            case "marker_recorded":
                details = event.marker_recorded_event_attributes.details["data"]
                found.append(json.loads(details.payloads[0].data)["activity_type"])
            case "activity_task_scheduled":
                found.append(event.activity_task_scheduled_event_attributes.activity_type.name)
            case "workflow_execution_signaled":
                found.append(f"signal {event.workflow_execution_signaled_event_attributes.signal_name}")
            case "workflow_execution_update_accepted":
                accepted = event.workflow_execution_update_accepted_event_attributes
                found.append(f"update {accepted.accepted_request.input.name}")
            case kind:
                found.append(kind.removeprefix("workflow_execution_").replace("_", " "))
    return found


@pytest.mark.parametrize("kind", SHAPES)
def test_the_histories_are_what_they_are_called(kind: str) -> None:
    """Each recorded run has gone the way that its name says, to its end."""
    found = happened(recorded(kind))
    rest = iter(found)
    missing = [one for one in SHAPES[kind] if one not in rest]  # each is looked for behind the one before it
    assert missing == [], found
    ends_elsewhere = kind in ("moved-user-before",)
    assert found[-1] == ("continued as new" if ends_elsewhere else "completed")


def test_every_element_signal_and_update_is_recorded() -> None:
    """Some recorded run passed each kind of element, got each signal, or took each update that workflows have."""
    found = {one for kind in SHAPES for one in happened(recorded(kind))}
    assert {*WORK, "signal event", "signal resumed", "signal remove"} <= found
    updates = {"enter", "remove", "move", "pause", "resume", "finish", "revise", "refresh"}
    assert {f"update {name}" for name in updates} <= found


def test_the_refused_run_was_refused() -> None:
    """A run that was not admitted completes with that as its result."""
    refused = recorded("refused-user").events[-1].workflow_execution_completed_event_attributes
    assert json.loads(refused.result.payloads[0].data)["admitted"] is False


def test_routes_are_short_in_histories() -> None:
    """The way on of an element that has one is written as the bare id; spelled out it is read the same."""
    spelled = {"kind": "push", "to": {"next": "done"}}
    route = Route.model_validate(spelled)
    assert route.to == {"next": "done"}
    assert route.model_dump(mode="json") == {"kind": "push", "to": "done"}
    assert Route.model_validate_json(route.model_dump_json()) == route
    split = {"kind": "condition-split", "to": {"users_in_segment": "a", "all_other_users": "next"}}
    assert Route.model_validate(split).model_dump(mode="json") == split


def test_both_ways_of_a_push_are_recorded() -> None:
    """A push to the outbox is a local activity, and an ordinary one where a device has another provider."""
    ordinary = {
        kind: [
            event.activity_task_scheduled_event_attributes.activity_type.name
            for event in recorded(kind).events
            if kind_of(event) == "activity_task_scheduled"
        ]
        for kind in ("pushed-user", "came-user")
    }
    assert ordinary == {"pushed-user": [], "came-user": ["update-user", "webhook", "push"]}


async def test_another_activity_is_caught() -> None:
    """A history in which another activity was scheduled than the code schedules does not replay."""
    history = recorded("came-user")
    for event in history.events:
        if kind_of(event) == "activity_task_scheduled":
            event.activity_task_scheduled_event_attributes.activity_type.name = "condition-split"
    with pytest.raises(NondeterminismError):
        await replayer().replay_workflow(history)


async def test_a_changed_route_is_caught() -> None:
    """A history whose routes lead elsewhere than its events went does not replay."""
    history = recorded("pushed-user")
    payload = history.events[0].workflow_execution_started_event_attributes.input.payloads[0]
    given = json.loads(payload.data)
    splits = [route for route in given["routes"].values() if route["kind"] == "condition-split"]
    assert len(splits) == 1
    # The push comes first, where the split was.
    splits[0]["kind"] = "push"
    payload.data = json.dumps(given).encode()
    with pytest.raises(NondeterminismError):
        await replayer().replay_workflow(history)


@workflow.defn(name="UserJourney")
class SplitsTwice(UserJourney):
    """The real interpreter with one more command: it asks each element twice."""

    @workflow.run
    async def run(self, given: UserJourneyInput) -> UserJourneyResult:
        return await super().run(given)

    async def _visit(self, route: Route, visit: Visit) -> Outcome:
        await super()._visit(route, visit)
        return await super()._visit(route, visit)


@workflow.defn(name="UserJourney")
class RestsTwice(UserJourney):
    """The real interpreter with one more timer before each rest."""

    @workflow.run
    async def run(self, given: UserJourneyInput) -> UserJourneyResult:
        return await super().run(given)

    async def _rest(self, *given: Any) -> None:
        await workflow.sleep(1)
        await super()._rest(*given)


@workflow.defn(name="Journey")
class OpensSlowly(Journey):
    """The real life of a journey with one more timer after its opening."""

    @workflow.run
    async def run(self, given: JourneyInput = NO_INPUT) -> Stats:
        return await super().run(given)

    async def _open(self, given: JourneyInput) -> None:
        await super()._open(given)
        await workflow.sleep(1)


ONE_MORE: dict[str, tuple[type, type]] = {
    "other-user": (SplitsTwice, UserJourney),
    "came-user": (RestsTwice, UserJourney),
    "late-user": (RestsTwice, UserJourney),
    "removed-user": (RestsTwice, UserJourney),
    "operated-journey": (OpensSlowly, Journey),
}


@pytest.mark.parametrize("kind", ONE_MORE)
async def test_one_more_command_is_caught(kind: str) -> None:
    """A workflow that issues one command more than it did when a run was recorded fails the replay of that run."""
    changed, real = ONE_MORE[kind]
    options: dict[str, Any] = {
        "workflow_runner": UnsandboxedWorkflowRunner(),
        "data_converter": pydantic_data_converter,
    }
    with pytest.raises(NondeterminismError):
        await Replayer(workflows=[changed], **options).replay_workflow(recorded(kind))
    # The same replayer with the real one has nothing to say.
    await Replayer(workflows=[real], **options).replay_workflow(recorded(kind))
