"""The numbers always add up, and everybody ends where a plain reading of the document says: on random journeys."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import timedelta

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError
from temporalio.testing import TimeSkipper

from activities.life import stats_of
from activities.records.reports import explain
from activities.records.rows import waits
from tests.house import House
from tests.journey_model import CROWD, UP_TO, Example, People, example, people
from tests.worker_that_dies import until
from workers.operating import Operator
from workers.plugin import JourneysPlugin
from workers.serving import run_workers
from workflows.contracts import EnterRequest, FinishRequest, Stats, UserGiven, user_workflow_id

JOURNEYS = 4


def require_laws(stats: Stats) -> None:
    """The conservation laws of the design, for each version."""
    assert stats.audience == stats.entered + sum(stats.refused.values())
    assert stats.entered == stats.inside + sum(stats.exited.values())
    for name, element in stats.elements.items():
        assert element.arrived == element.inside + sum(element.branches.values()) + sum(element.left.values()), name
        assert element.inside >= 0, name
    assert sum(element.inside for element in stats.elements.values()) == stats.inside
    left = Counter[str]()
    for element in stats.elements.values():
        left.update(element.left)
    assert +left == +Counter(stats.exited)


def require_walks(house: House, found: Example, audience: People, stats: Stats) -> None:
    """Everybody went the way that the document says, with the outcomes that it says."""
    name = found.document["journey"]
    entering = [user for user in audience.users if found.entry(audience, user)]
    assert stats.entered == len(entering)
    outcomes: dict[str, Counter[str]] = {}
    devices: Counter[str] = Counter()
    for user in audience.users:
        runs = explain(house.stores.ledger.database, name, user).runs
        if user not in entering:
            assert runs == []
            continue
        steps, exit_, pushes = found.walk(audience, user)
        (run,) = runs
        assert ([(step.element, step.branch) for step in run.steps], run.exit) == (steps, exit_), user
        sending = [element for element, _ in steps if found.document["elements"][element]["kind"] == "push"]
        for element, outcome in zip(sending, pushes, strict=True):
            outcomes.setdefault(element, Counter())[outcome] += 1
            devices[element] += len(audience.devices[user]) if outcome == "accepted" else 0
    for element, counted in stats.elements.items():
        if found.document["elements"][element]["kind"] == "update-user":
            assert counted.users == ({"updated": counted.arrived} if counted.arrived else {}), element
            continue
        assert counted.users == outcomes.get(element, {}), element
        assert sum(counted.devices.values()) == devices[element], element


async def production(house: House) -> Client:
    return await house.client(JourneysPlugin(house.stores, sandbox=False))


def saved_examples(house: House, chance: random.Random, group: str = "random") -> list[Example]:
    examples = [example(chance, f"{group}-{number}") for number in range(JOURNEYS)]
    house.save(yaml.safe_dump_all([one.document for one in examples], sort_keys=False))
    return examples


async def test_everybody_goes_where_the_document_says(house: House) -> None:
    """On any valid journey the laws hold at the end, and each user's way and outcomes are a plain interpreter's."""
    audience = people(house, random.Random(0))
    client = await production(house)
    loop, groups, entered = asyncio.get_running_loop(), itertools.count(), 0

    async def run(examples: list[Example]) -> None:
        nonlocal entered
        # One after the other: an update by one journey would be seen by the conditions of the next.
        for one in examples:
            report = await house.engine.start(one.document["journey"], client=client)
            stats = await house.engine.result(report, client=client)
            assert (stats.inside, stats.state) == (0, "finished")
            require_laws(stats)
            require_walks(house, one, audience, stats)
            entered += stats.entered

    @settings(
        max_examples=5, deadline=None, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck)
    )
    @given(chance=st.randoms(use_true_random=False))
    def on_any_journeys(chance: random.Random) -> None:
        examples = saved_examples(house, chance, f"group-{next(groups)}")
        asyncio.run_coroutine_threadsafe(run(examples), loop).result(120)

    async with run_workers(client, house.settings):
        await asyncio.to_thread(on_any_journeys)
    assert entered > CROWD


async def send_in(house: House, client: Client, one: Example) -> None:
    """Send in, by the API entry and by events, whoever comes so; when the audience is in already."""
    operator = Operator(client, one.name)
    named = [UserGiven(user_id=user, values={"n": n}) for user, (entry, n) in one.sent_in.items() if entry == "door"]
    await operator.enter(EnterRequest(users=named))
    joining = (
        house.engine.event(user, "join", properties={"n": n}, client=client)
        for user, (entry, n) in one.sent_in.items()
        if entry == "begin"
    )
    await asyncio.gather(*joining)


async def live(house: House, client: Client, one: Example, audience: People) -> None:
    """Have each user do what he does while he waits, and the time pass for whom nothing comes, until all have left."""
    skipper, ledger = TimeSkipper(client), house.stores.ledger
    query = select(waits).where(waits.c.journey == one.name, waits.c.open == 1)
    doing: dict[tuple[str, int], asyncio.Task[None]] = {}
    skipping: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def wait(user: str, element: str) -> None:
        _, script, passes = one.wait(audience, element, user)
        for event, number in script:
            await house.engine.event(user, event, properties={"n": number}, client=client)
        if passes:
            handle = client.get_workflow_handle(user_workflow_id(one.name, user))
            async with skipping[user]:  # a later skip of the same run takes the place of one that is not over
                await skipper.fast_forward(handle, UP_TO + timedelta(seconds=1))

    while await asyncio.to_thread(ledger.inside, one.name):
        for row in ledger.database.read(lambda connection: connection.execute(query).all()):
            if (row.passage, row.step) not in doing:
                doing[row.passage, row.step] = asyncio.create_task(wait(row.user_id, row.element))
        await asyncio.sleep(0.05)
    await asyncio.gather(*doing.values())


async def test_everybody_waits_for_what_the_document_says(house: House) -> None:
    """With waits, events and entries by events and by a client, too, each user goes as a plain interpreter says."""
    audience = people(house, random.Random(1))
    house.load("events", "event_id,user_id,event,at,n\ne0,nobody,did,2026-01-01T00:00:00Z,1\n")
    client = await production(house)
    loop, groups = asyncio.get_running_loop(), itertools.count()
    passed = Counter[str]()

    async def run(one: Example) -> None:
        report = await house.engine.start(one.name, client=client)
        wanted = sum((one.entry(audience, user) or ("",))[0] == "start" for user in audience.users)
        await until(lambda: stats_of(house.stores, one.name).entered == wanted)
        await send_in(house, client, one)
        await asyncio.wait_for(live(house, client, one, audience), 60)
        await Operator(client, one.name).finish(FinishRequest(inside="keep"))
        stats = await house.engine.result(report, client=client)
        assert (stats.inside, stats.state) == (0, "finished")
        require_laws(stats)
        require_walks(house, one, audience, stats)
        for element, counted in stats.elements.items():
            kind = one.document["elements"][element]["kind"]
            passed.update({f"{kind}: {branch}": number for branch, number in counted.branches.items()})

    @settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(chance=st.randoms(use_true_random=False))
    def on_any_journey(chance: random.Random) -> None:
        one = example(chance, f"eventful-{next(groups)}", audience)
        house.save(yaml.safe_dump(one.document, sort_keys=False))
        asyncio.run_coroutine_threadsafe(run(one), loop).result(120)

    async with run_workers(client, house.settings):
        await asyncio.to_thread(on_any_journey)
    ended_by_events = sum(passed[f"wait-for-trigger: {way}"] for way in ("one", "some", "both"))
    assert ended_by_events > 0 < passed["wait-for-trigger: not_triggered"], passed


@pytest.mark.parametrize("seed", [10])
async def test_the_laws_at_every_moment(house: House, seed: int) -> None:
    """The laws hold at every look while runs pass, are terminated and are refused, and over what is left at the end."""
    chance = random.Random(seed)
    audience = people(house, chance)
    house.hold_pushes(min(audience.users))
    examples = saved_examples(house, chance)
    names = [one.document["journey"] for one in examples]
    client = await production(house)
    looks = 0

    async def look() -> None:
        nonlocal looks
        while True:
            for name in names:
                require_laws(await asyncio.to_thread(stats_of, house.stores, name))
                looks += 1
            await asyncio.sleep(0.01)

    async with (
        run_workers(client, house.settings, "journeys"),
        run_workers(client, house.settings, "users"),
    ):
        looking = asyncio.create_task(look())
        reports = [await house.engine.start(name, client=client) for name in names]
        for name in names:
            for user in chance.sample(sorted(audience.users), 8):
                with suppress(RPCError):  # who is not in the audience has no run, and some have ended already
                    await client.get_workflow_handle(user_workflow_id(name, user)).terminate()
            for user in chance.sample(sorted(audience.users), 4):
                with suppress(WorkflowAlreadyStartedError):
                    await house.start_user(client, name, user)
        async with run_workers(client, house.settings, "push"):
            ended = [await house.engine.result(report, client=client) for report in reports]
        assert not looking.done() or looking.result()
        looking.cancel()
    assert looks > 20
    for one, stats in zip(examples, ended, strict=True):
        assert stats.inside == 0
        require_laws(stats)
        # Who was not terminated has gone his whole way.
        for user in audience.users:
            for run in explain(house.stores.ledger.database, one.document["journey"], user).runs:
                steps, exit_, _ = one.walk(audience, user)
                gone = [(step.element, step.branch) for step in run.steps]
                assert (gone, run.exit) == (steps, exit_) if run.reason == "end" else gone == steps[: len(gone)], user
    assert sum(stats.exited.get("terminated", 0) for stats in ended) > 0
