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
from workflows.contracts import ENGINE, Outcome, UserJourneyInput, UserJourneyResult, Visit
from workflows.graph import Route
from workflows.user_journey import UserJourney

HISTORIES = Path(__file__).parent / "histories"
KINDS = ("pushed-user", "other-user", "refused-user", "journey")


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


def test_the_histories_are_what_they_are_called() -> None:
    """The recorded runs are a pushed user, another, a refused one and a journey: each of the shape it stands for."""
    kinds = {kind: [kind_of(event) for event in recorded(kind).events] for kind in KINDS}
    assert {kind: found[-1] for kind, found in kinds.items()} == dict.fromkeys(KINDS, "workflow_execution_completed")
    assert [found.count("marker_recorded") for found in kinds.values()] == [2, 2, 1, 0]
    assert [found.count("activity_task_scheduled") for found in kinds.values()] == [1, 0, 0, 5]
    refused = recorded("refused-user").events[-1].workflow_execution_completed_event_attributes
    assert json.loads(refused.result.payloads[0].data)["admitted"] is False


async def test_another_activity_is_caught() -> None:
    """A history in which another activity was scheduled than the code schedules does not replay."""
    history = recorded("pushed-user")
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


@pytest.mark.parametrize("kind", ["pushed-user", "other-user"])
async def test_one_more_command_is_caught(kind: str) -> None:
    """An interpreter that issues one command more than it did when a run was recorded fails the replay of that run."""
    options: dict[str, Any] = {
        "workflow_runner": UnsandboxedWorkflowRunner(),
        "data_converter": pydantic_data_converter,
    }
    with pytest.raises(NondeterminismError):
        await Replayer(workflows=[SplitsTwice], **options).replay_workflow(recorded(kind))
    # The same replayer with the real one has nothing to say.
    await Replayer(workflows=[UserJourney], **options).replay_workflow(recorded(kind))
