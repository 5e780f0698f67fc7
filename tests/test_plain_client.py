"""Journeys for any Temporal client: started by the `temporal` program, by name, with plain JSON and nothing of ours."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from typing import Any

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata

from tests.house import House, events_of
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE
from workflows.documents import JourneyDocument

INLINE = {
    "journey": "inline",
    "title": "Sent as data",
    "entries": {"start": {"kind": "audience-entry", "audience": {"segment": "paying"}, "next": "grown"}},
    "elements": {
        "grown": {
            "kind": "condition-split",
            "match": {"attribute": "age", "at_least": 18},
            "branches": {"users_in_segment": "hi", "all_other_users": "done"},
        },
        "hi": {"kind": "push", "message": {"title": "Hi", "body": "there"}, "next": "done"},
        "done": {"kind": "exit"},
    },
}


class Temporal:
    """The `temporal` program, as an operator uses it from any shell."""

    def __init__(self, house: House) -> None:
        self._program = house.settings.temporal_program
        self._where = ("--address", house.address, "--namespace", house.namespace)

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            self._program,
            *arguments,
            *self._where,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complained = await asyncio.wait_for(process.communicate(), 15)
        return process.returncode or 0, said.decode(), complained.decode()

    async def start(self, type_: str, queue: str, workflow_id: str, given: Any) -> None:
        """Start a workflow as the README tells."""
        status, said, complained = await self.run(
            *("workflow", "start", "--type", type_, "--task-queue", queue, "--workflow-id", workflow_id),
            *(() if given is None else ("--input", given if isinstance(given, str) else json.dumps(given))),
        )
        assert status == 0, said + complained

    async def result(self, workflow_id: str) -> Any:
        """Wait for a workflow's end: its result, or its failure."""
        _, said, complained = await self.run("workflow", "result", "--workflow-id", workflow_id, "--output", "json")
        assert said, complained
        return json.loads(said)

    async def ended_with(self, type_: str, queue: str, workflow_id: str, given: Any) -> dict[str, Any]:
        """Start a workflow that completes, and give its result."""
        await self.start(type_, queue, workflow_id, given)
        found = await self.result(workflow_id)
        assert found["status"] == "COMPLETED", found
        result: dict[str, Any] = found["result"]
        return result

    async def failure_of(self, type_: str, queue: str, workflow_id: str, given: Any) -> dict[str, Any]:
        """Start a workflow that fails, and give the failure that says why."""
        await self.start(type_, queue, workflow_id, given)
        found = await self.result(workflow_id)
        assert found["status"] == "FAILED", found
        _, said, _ = await self.run("workflow", "show", "--workflow-id", workflow_id, "--output", "json")
        failure = json.loads(said)["events"][-1]["workflowExecutionFailedEventAttributes"]["failure"]
        while "applicationFailureInfo" not in failure:
            failure = failure["cause"]
        cause: dict[str, Any] = failure
        return cause


def faults_in(failure: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the faults that a failure carries as its first detail, as any client can."""
    info = failure["applicationFailureInfo"]
    assert (info["type"], info["nonRetryable"]) == ("DefinitionError", True)
    (payload,) = info["details"]["payloads"]
    found: list[dict[str, Any]] = json.loads(b64decode(payload["data"])) if "data" in payload else payload
    return found


@pytest.fixture
def temporal(house: House) -> Temporal:
    return Temporal(house)


async def test_a_journey_and_a_user_by_name(house: House, temporal: Temporal) -> None:
    """`temporal workflow start` runs a saved journey to its end by `{"journey": "hello"}`, and then refuses a user."""
    async with house.serving() as client:
        stats = await temporal.ended_with("Journey", JOURNEYS_QUEUE, "journey/hello", '{"journey":"hello"}')
        assert (stats["version"], stats["state"], stats["audience"], stats["entered"]) == (1, "finished", 4, 4)
        assert stats["elements"]["loyal"]["branches"] == {"users_in_segment": 3, "all_other_users": 1}
        assert stats["elements"]["promo"]["devices"] == {"accepted": 3}
        late = await temporal.ended_with(
            "UserJourney", USERS_QUEUE, "journey/hello/user/u3", {"journey": "hello", "user_id": "u3"}
        )
        assert late == {"admitted": False, "reason": "not-running"}
        assert "Thank them" in await _details(client, "journey/hello")


async def _details(client: Any, workflow_id: str) -> str:
    handle = client.get_workflow_handle(workflow_id)
    return str((await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)).current_details)


async def test_a_user_enters_by_plain_json(house: House, temporal: Temporal) -> None:
    """`UserJourney` started by `{"journey", "user_id"}` passes a user through the running journey, routes unsent."""
    house.load("users", "user_id,plan\nheld,held\n")
    inline = json.loads(json.dumps(INLINE))
    inline["entries"]["start"]["audience"] = {"attribute": "plan", "is": "held"}
    inline["elements"]["grown"]["match"] = {
        "any": [{"attribute": "plan", "is": "held"}, {"attribute": "age", "at_least": 18}]
    }
    async with house.serving((JOURNEYS_QUEUE, USERS_QUEUE)):
        await temporal.start("Journey", JOURNEYS_QUEUE, "journey/inline", {"definition": inline})
        for _ in range(200):
            if (life := house.stores.ledger.life("inline")) is not None:
                break
            await asyncio.sleep(0.05)
        assert life is not None
        await temporal.start(
            "UserJourney", USERS_QUEUE, "journey/inline/user/u1", {"journey": "inline", "user_id": "u1"}
        )
        passed = await temporal.ended_with(
            "UserJourney",
            USERS_QUEUE,
            "journey/inline/user/u4",
            {"journey": "inline", "user_id": "u4", "entry": "start"},
        )
        assert passed == {
            **{"admitted": True, "reason": "end", "exit": "done"},
            "because": "not in the segment built in place, users v1",
        }
        async with house.serving((PUSH_QUEUE,)):
            assert (await temporal.result("journey/inline/user/u1"))["result"]["exit"] == "done"
            stats = (await temporal.result("journey/inline"))["result"]
    assert (stats["entered"], stats["exited"]) == (3, {"end": 3})
    assert stats["elements"]["hi"]["devices"] == {"accepted": 2}


async def test_a_whole_definition(house: House, temporal: Temporal) -> None:
    """A journey that is sent whole is checked, saved as version 1 and run; the same one again is no new version."""
    async with house.serving():
        for _ in range(2):
            stats = await temporal.ended_with("Journey", JOURNEYS_QUEUE, "journey/inline", {"definition": INLINE})
            assert (stats["journey"], stats["version"], stats["audience"]) == ("inline", 1, stats["audience"])
        # The second start admits nobody: under `never`, all have entered before.
        assert (stats["entered"], stats["refused"]) == (4, {"entered-before": 4})
        changed = {**INLINE, "title": "Changed"}
        stats = await temporal.ended_with("Journey", JOURNEYS_QUEUE, "journey/inline", {"definition": changed})
        assert (stats["version"], stats["entered"], stats["refused"]) == (2, 0, {"entered-before": 4})
    saved = house.stores.catalogue.find("journey", "inline", 1).document
    assert saved.model_dump(by_alias=True, exclude_unset=True) == JourneyDocument.model_validate(INLINE).model_dump(
        by_alias=True, exclude_unset=True
    )


async def test_a_definition_with_a_file(house: House, temporal: Temporal) -> None:
    """A definition that holds `file` fails its run at once, never retried, and says what to do in its place."""
    sent = json.loads(json.dumps(INLINE))
    sent["entries"]["start"]["audience"] = {"file": "vip.csv", "column": "client"}
    async with house.serving() as client:
        failure = await temporal.failure_of("Journey", JOURNEYS_QUEUE, "journey/inline", {"definition": sent})
        assert "workflow_task_failed" not in await events_of(client, "journey/inline")
    (fault,) = faults_in(failure)
    assert (fault["code"], fault["path"]) == ("file-out-of-reach", "entries.start.audience.file")
    assert "journeys segment import" in fault["hint"]
    assert "vip.csv" in failure["message"]
    assert "inline" not in house.stores.catalogue.names("journey")


async def test_a_wrong_definition(house: House, temporal: Temporal) -> None:
    """A definition with many faults fails its run with all of them, each with its path, and nothing is saved."""
    sent = json.loads(json.dumps(INLINE))
    sent["entries"]["start"]["audience"] = {"segment": "payng"}
    sent["elements"]["grown"]["match"] = {"attribute": "aeg", "at_least": 18}
    sent["elements"]["grown"]["branches"]["all_other_users"] = "dnoe"
    sent["elements"]["hi"]["message"]["title"] = "{{ user.frist_name }}"
    sent["elements"]["lost"] = {"kind": "exit"}
    async with house.serving() as client:
        failure = await temporal.failure_of("Journey", JOURNEYS_QUEUE, "journey/inline", {"definition": sent})
        assert "workflow_task_failed" not in await events_of(client, "journey/inline")
    assert {fault["path"] for fault in faults_in(failure)} == {
        "entries.start.audience.segment",
        "elements.grown.match.attribute",
        "elements.grown.branches.all_other_users",
        "elements.hi.message.title",
        "elements.lost",
    }
    assert failure["message"].startswith("5 faults found")
    assert "inline" not in house.stores.catalogue.names("journey")


async def test_models_that_do_not_read(house: House, temporal: Temporal) -> None:
    """What is no journey document at all fails the run with faults too: a wrong kind, and a missing branch."""
    sent = json.loads(json.dumps(INLINE))
    sent["elements"]["done"]["kind"] = "exitt"
    del sent["elements"]["grown"]["branches"]["all_other_users"]
    async with house.serving():
        failure = await temporal.failure_of("Journey", JOURNEYS_QUEUE, "journey/inline", {"definition": sent})
    faults = {fault["path"]: fault for fault in faults_in(failure)}
    assert faults.keys() == {"elements.grown.branches", "elements.done.kind"}
    assert "all_other_users" in faults["elements.grown.branches"]["message"]
    assert "exit" in faults["elements.done.kind"].get("hint", "")


@pytest.mark.parametrize(
    ("type_", "workflow_id", "given", "said"),
    [
        ("Journey", "my-own-id", {"journey": "hello"}, "journey/hello"),
        ("Journey", "journey/nowhere", {"journey": "nowhere"}, "nowhere"),
        ("Journey", "journey/hello", {"journey": "hello", "version": 9}, "hello"),
        ("Journey", "journey/hello", {}, "{journey: NAME}"),
        ("UserJourney", "my-own-id", {"journey": "hello", "user_id": "u1"}, "journey/hello/user/u1"),
        ("UserJourney", "journey/nowhere/user/u1", {"journey": "nowhere", "user_id": "u1"}, "nowhere"),
        # What does not even read as an input.
        ("Journey", "journey/hello", {"journey": 5}, "journey"),
        ("Journey", "journey/hello", '"hello"', "hello"),
        ("UserJourney", "journey/hello/user/u1", {"journey": "hello"}, "user_id"),
        ("Journey", "journey/hello", None, "{journey: NAME}"),
        ("UserJourney", "journey/hello/user/u1", None, "start it with"),
    ],
)
async def test_a_start_that_makes_no_sense(
    house: House, temporal: Temporal, type_: str, workflow_id: str, given: Any, said: str
) -> None:
    """A wrong id, an unknown name or version, and an input that does not read fail the run at once and say why."""
    queue = JOURNEYS_QUEUE if type_ == "Journey" else USERS_QUEUE
    async with house.serving() as client:
        failure = await temporal.failure_of(type_, queue, workflow_id, given)
        assert said in failure["message"]
        assert "workflow_task_failed" not in await events_of(client, workflow_id)
    assert house.stores.ledger.inside("hello") == 0
