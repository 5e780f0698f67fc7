"""The numbers always add up, and everybody ends where a plain reading of the document says: on random journeys."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from activities.elements.split_test import variant_of
from activities.life import stats_of
from activities.records.reports import explain
from tests.house import House
from workers.plugin import JourneysPlugin
from workers.serving import run_workers
from workflows.contracts import Stats, user_workflow_id
from workflows.documents import SplitTest

CROWD = 16
JOURNEYS = 4

User: TypeAlias = dict[str, Any]
Test: TypeAlias = Callable[[User], bool]


@dataclass
class People:
    """A small audience, as its tables hold it."""

    users: dict[str, User] = field(default_factory=dict)
    devices: dict[str, list[str]] = field(default_factory=dict)
    """Reachable devices of each user."""


def people(house: House, chance: random.Random) -> People:
    """Make an audience with gaps, import it beside the six of the house, and remember all of them."""
    found = People(
        users={
            f"u{number}": {"plan": plan, "age": age, "nick": None}
            for number, (plan, age) in enumerate(
                [("paid", 30), ("pro", 41), ("free", 22), ("paid", 17), (None, 65), ("pro", 33)], start=1
            )
        },
        devices={"u1": ["d1", "d1b"], "u2": [], "u3": [], "u4": ["d4"], "u5": [], "u6": ["d6"]},
    )
    house.load("users", "user_id,stamp\nnobody,none\n")  # the attribute that updates write
    found.users["nobody"], found.devices["nobody"] = {"plan": None, "age": None, "nick": None}, []
    users, devices = ["user_id,plan,age,nick"], ["device_id,user_id,platform,token,opt_in"]
    for number in range(CROWD):
        name = f"p{number}"
        user = {"plan": chance.choice(["free", "paid", None]), "age": chance.choice([15, 20, 40, None])}
        user["nick"] = chance.choice(["Ann", "Bo", None])
        found.users[name] = user
        users.append(",".join([name, *("" if value is None else str(value) for value in user.values())]))
        found.devices[name] = []
        for place in range(chance.choice([0, 1, 2])):
            token, opted_in = chance.choice(["t", "t", ""]), chance.choice(["true", "true", "false", ""])
            devices.append(f"{name}-{place},{name},ios,{token},{opted_in}")
            # The outbox, the provider of devices that name none, needs no address.
            if opted_in == "true":
                found.devices[name].append(f"{name}-{place}")
    house.load("users", "\n".join(users) + "\n")
    house.load("devices", "\n".join(devices) + "\n")
    return found


def condition(chance: random.Random, depth: int = 0) -> tuple[Any, Test]:
    """Make a condition, and what it means in plain Python: a missing value compares false, `not` is the complement."""
    kind = chance.choice(["plan", "plan-not", "age", "set", "everyone", "not", "all", "any"] if depth < 2 else ["plan"])
    if kind == "plan":
        plan = chance.choice(["free", "paid"])
        return {"attribute": "plan", "is": plan}, lambda user: user["plan"] == plan
    if kind == "plan-not":
        return {"attribute": "plan", "is_not": "free"}, lambda user: user["plan"] not in ("free", None)
    if kind == "age":
        age = chance.choice([18, 30])
        return {"attribute": "age", "at_least": age}, lambda user: user["age"] is not None and user["age"] >= age
    if kind == "set":
        return {"attribute": "nick", "is_set": True}, lambda user: user["nick"] is not None
    if kind == "everyone":
        return {"everyone": True}, lambda user: True
    inner, test = condition(chance, depth + 1)
    if kind == "not":
        return {"not": inner}, lambda user: not test(user)
    other, second = condition(chance, depth + 1)
    if kind == "all":
        return {"all": [inner, other]}, lambda user: test(user) and second(user)
    return {"any": [inner, other]}, lambda user: test(user) or second(user)


@dataclass
class Example:
    """A random journey, with the meaning of its conditions."""

    document: dict[str, Any]
    tests: dict[str, Test]

    def walk(self, people: People, user: str) -> tuple[list[tuple[str, str]], str, list[str]]:
        """Interpret the document: the steps, the exit, and the outcome of each push."""
        at = self.document["entries"]["start"]["next"]
        steps: list[tuple[str, str]] = []
        pushes: list[str] = []
        row = dict(people.users[user])
        while (element := self.document["elements"][at])["kind"] != "exit":
            branch = "next"
            if element["kind"] == "push":
                pushes.append(push_outcome(element, row, people.devices[user]))
                if "next" not in element:
                    branch = "accepted" if pushes[-1] == "accepted" else "not_accepted"
            elif element["kind"] == "update-user":
                row["stamp"] = self.document["journey"]
            elif element["kind"] != "time-delay":
                branch = self.decide(at, element, row, people.devices[user], user)
            steps.append((at, branch))
            way = element["next"] if branch == "next" else element["branches"][branch]
            at = way if isinstance(way, str) else way["next"]
        return steps, at, pushes

    def decide(self, at: str, element: dict[str, Any], row: User, devices: list[str], user: str) -> str:
        """Give the branch of an element that decides."""
        if "by" in element:
            return {"free": "free", "paid": "payer", "pro": "payer"}.get(row["plan"], "all_other_users")
        if element["kind"] == "condition-split":
            return "users_in_segment" if self.tests[at](row) else "all_other_users"
        if element["kind"] == "reachability-check":
            return "reachable" if devices else "not_reachable"
        return variant_of(SplitTest.model_validate(element), self.document["journey"], at, user)


def push_outcome(element: dict[str, Any], row: User, devices: list[str]) -> str:
    """Give what becomes of a push."""
    if not devices:
        return "skipped: no-reachable-device"
    if "nick" in element["message"]["title"] and row["nick"] is None:
        return "skipped: value-missing"
    return "accepted"


def box(chance: random.Random, journey: str, name: str, after: list[str], tests: dict[str, Test]) -> dict[str, Any]:
    """Make an element that leads to some of the later ones."""

    def ways(*branches: str) -> dict[str, str]:
        return {branch: chance.choice(after) for branch in branches}

    kinds = ["segment", "segment", "push", "push", "value", "reachability-check", "split-test", "update-user", "delay"]
    match chance.choice([*kinds, "stamped"]):
        case "segment":
            match, tests[name] = condition(chance)
            return {"kind": "condition-split", "match": match, "branches": ways("users_in_segment", "all_other_users")}
        case "stamped":
            # Whether this very run has passed an update before: no membership may be older than it.
            tests[name] = lambda user: user.get("stamp") == journey
            match = {"attribute": "stamp", "is": journey}
            return {"kind": "condition-split", "match": match, "branches": ways("users_in_segment", "all_other_users")}
        case "value":
            branches: dict[str, Any] = ways("all_other_users")
            branches["free"] = {"is": "free", "next": chance.choice(after)}
            branches["payer"] = {"in": ["pro", "paid", "free"], "next": chance.choice(after)}
            return {"kind": "condition-split", "by": {"attribute": "plan"}, "branches": branches}
        case "reachability-check":
            return {"kind": "reachability-check", "branches": ways("reachable", "not_reachable")}
        case "split-test":
            first = chance.randrange(0, 101)
            shares = {"a": first, "b": 100 - first}
            variants = {key: {"share": share, "next": chance.choice(after)} for key, share in shares.items()}
            return {"kind": "split-test", "branches": variants}
        case "update-user":
            return {"kind": "update-user", "set": {"stamp": journey}, "next": chance.choice(after)}
        case "delay":
            return {"kind": "time-delay", "duration": "1s", "next": chance.choice(after)}
        case _:
            title = chance.choice(["Hi", "Hi {{ user.nick }}", "Hi {{ user.plan | default: 'you' }}"])
            push = {"kind": "push", "message": {"title": title, "body": "there"}}
            if chance.random() < 0.5:
                return {**push, "next": chance.choice(after)}
            return {**push, "branches": ways("accepted", "not_accepted")}


def example(chance: random.Random, name: str) -> Example:
    """Make a valid journey: each element leads to later ones only, and what nothing reaches is left out."""
    exits = [f"exit-{number}" for number in range(chance.choice([1, 2]))]
    ids = [f"e{number}" for number in range(chance.randrange(1, 8))]
    elements: dict[str, Any] = {}
    tests: dict[str, Test] = {}
    for place, element in enumerate(ids):
        after = [*ids[place + 1 : place + 3], *exits]
        elements[element] = box(chance, name, element, after, tests)
    elements.update({exit_: {"kind": "exit"} for exit_ in exits})
    audience, tests["start"] = condition(chance)
    start = {"kind": "audience-entry", "audience": audience, "next": ids[0]}
    reached, waiting = set(), [ids[0]]
    while waiting:
        element = waiting.pop()
        reached.add(element)
        found = elements[element]
        ways = [*found.get("branches", {}).values(), *([found["next"]] if "next" in found else [])]
        waiting += [way if isinstance(way, str) else way["next"] for way in ways]
    kept = {element: found for element, found in elements.items() if element in reached}
    return Example({"journey": name, "entries": {"start": start}, "elements": kept}, tests)


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
    entering = [user for user in audience.users if found.tests["start"](audience.users[user])]
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


@pytest.mark.parametrize("seed", [10])
async def test_the_laws_at_every_moment(house: House, seed: int) -> None:
    """The laws hold at every look while runs pass, are terminated and are refused, and over what is left at the end."""
    chance = random.Random(seed)
    audience = people(house, chance)
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
