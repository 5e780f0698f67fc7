"""The Temporal plugin: everything a client or worker needs to speak journeys, in one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from temporalio.plugin import SimplePlugin
from temporalio.worker import UnsandboxedWorkflowRunner, WorkerConfig, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.elements.condition_split import ConditionSplitActivities
from activities.elements.leaving import LeavingActivities
from activities.elements.passing import Passing
from activities.elements.reachability_check import ReachabilityCheckActivities
from activities.elements.split_test import SplitTestActivities
from activities.elements.time_delay import TimeDelayActivities
from activities.elements.update_user import Updates, UpdateUserActivities
from activities.elements.wait_for_trigger import WaitForTriggerActivities
from activities.elements.webhook import Outside, WebhookActivities
from activities.enrolment import EnrolmentActivities
from activities.entering import EnteringActivities
from activities.entry import EntryActivities
from activities.events.taking import Events
from activities.life import LifeActivities
from activities.noticing import Notices
from activities.operating import OperatingActivities
from activities.push.delivery import DeliveryRules, PushActivities
from activities.push.provider import Provider
from activities.schedules import ScheduleActivities
from activities.stores import Stores
from activities.upkeep import UpkeepActivities
from workers.codec import JourneysCodec, data_converter
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE
from workflows.enrolment import Enrolment
from workflows.events import Events as EventsWorkflow
from workflows.journey import Journey
from workflows.upkeep import Upkeep
from workflows.user_journey import UserJourney

LIGHT_MODULES = (
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "workflows.calendar",
    "workflows.conditions",
    "workflows.contracts",
    "workflows.documents",
    "workflows.elements",
    "workflows.errors",
    "workflows.graph",
    "workflows.life",
    "workflows.messages",
    "workflows.operators",
    "workflows.passage",
    "workflows.recurrence",
    "workflows.scalars",
    "workflows.triggers",
    "workflows.wire",
)
"""Modules that the sandbox takes from the worker: pure, and preparing a run without them takes 5 ms in place of 1."""

WORKFLOWS: dict[str, list[type]] = {
    JOURNEYS_QUEUE: [Journey, Enrolment, Upkeep, EventsWorkflow],
    USERS_QUEUE: [UserJourney],
    PUSH_QUEUE: [],
}
"""The workflows of each task queue."""


def activities_of(
    stores: Stores,
    providers: Mapping[str, Provider] | None = None,
    rules: DeliveryRules | None = None,
    outside: Outside | None = None,
) -> dict[str, list[Callable[..., Any]]]:
    """Give the activities of each task queue.

    Args:
        stores: What they read and write.
        providers: The push providers that are set up, by name.
        rules: How pushes are delivered.
        outside: How webhooks reach other systems.

    Returns:
        Task queue to activities.
    """
    notices = Notices(stores)
    life, enrolment = LifeActivities(stores, notices), EnrolmentActivities(stores, notices)
    operating, events, schedules = OperatingActivities(stores), Events(stores), ScheduleActivities(stores)
    passing = Passing(stores, events.take_for_run)
    pushing = PushActivities(passing, providers, rules)
    return {
        JOURNEYS_QUEUE: [
            life.open_journey,
            life.wait_until_empty,
            life.close_journey,
            life.count,
            operating.pause_journey,
            operating.resume_journey,
            operating.finish_journey,
            operating.revise_journey,
            operating.take_out,
            operating.move,
            schedules.set_schedules,
            schedules.begin_enrolment,
            EnteringActivities(stores).enter,
            UpkeepActivities(stores).upkeep,
        ],
        USERS_QUEUE: [
            EntryActivities(stores).entry,
            ConditionSplitActivities(passing).condition_split,
            TimeDelayActivities(passing).time_delay,
            SplitTestActivities(passing).split_test,
            WaitForTriggerActivities(passing).wait_for_trigger,
            ReachabilityCheckActivities(passing).reachability_check,
            UpdateUserActivities(passing, Updates(stores.tables)).update_user,
            LeavingActivities(stores).leave,
            enrolment.evaluate_audience,
            enrolment.enrol,
            events.take_event,
            pushing.push,  # for the local attempt of a push to the outbox; another provider's is made on its own queue
        ],
        PUSH_QUEUE: [pushing.push, WebhookActivities(passing, outside).webhook],
    }


class JourneysPlugin(SimplePlugin):
    """Brings workflows, activities, the pydantic converter and the sandbox setting.

    A client needs the plugin without stores. A worker on one of the three task queues gets what runs there; on a queue
    of another name, everything.

    Args:
        stores: What activities read and write; null for a client that only starts and asks.
        sandbox: Whether workflow code runs in Temporal's sandbox.
        providers: The push providers that are set up, by name; the outbox needs none.
        rules: How pushes are delivered.
        outside: How webhooks reach other systems.
        codec: Encrypts and compresses what Temporal keeps; null leaves it readable.
    """

    def __init__(
        self,
        stores: Stores | None = None,
        *,
        sandbox: bool = True,
        providers: Mapping[str, Provider] | None = None,
        rules: DeliveryRules | None = None,
        outside: Outside | None = None,
        codec: JourneysCodec | None = None,
    ) -> None:
        runner: WorkflowRunner = UnsandboxedWorkflowRunner()
        if sandbox:
            runner = SandboxedWorkflowRunner(
                restrictions=SandboxRestrictions.default.with_passthrough_modules(*LIGHT_MODULES)
            )
        super().__init__("journeys", data_converter=data_converter(codec), workflow_runner=runner)
        self._activities = activities_of(stores, providers, rules, outside) if stores is not None else {}

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add what runs on the worker's task queue."""
        config = super().configure_worker(config)
        queue = config.get("task_queue", "")
        queues = [queue] if queue in WORKFLOWS else list(WORKFLOWS)
        config["workflows"] = [*config.get("workflows", []), *(one for name in queues for one in WORKFLOWS[name])]
        config["activities"] = [
            *config.get("activities", []),
            *dict.fromkeys(one for name in queues for one in self._activities.get(name, [])),
        ]
        return config

    def configure_replayer(self, config: Any) -> Any:
        """Add the workflows whose histories are replayed."""
        config = super().configure_replayer(config)
        config["workflows"] = [*config.get("workflows", []), *(one for found in WORKFLOWS.values() for one in found)]
        return config
