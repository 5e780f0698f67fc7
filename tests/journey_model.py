"""Random journeys over a small audience, and a plain-Python interpreter that says where each user has to go."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from activities.elements.split_test import variant_of
from tests.house import House
from workflows.documents import SplitTest

CROWD = 16
UP_TO = timedelta(hours=1)
"""How long every wait lasts for whom nothing comes."""

User: TypeAlias = dict[str, Any]
Test: TypeAlias = Callable[[User], bool]
Did: TypeAlias = tuple[str, int]
"""Something a user does while he waits: the event's name, and its property `n`."""


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
    """A random journey, with the meaning of its conditions, and who is sent in by entries that are no audience."""

    document: dict[str, Any]
    tests: dict[str, Test]
    sent_in: dict[str, tuple[str, int]] = field(default_factory=dict)
    """User to such an entry, and the value `n` that he brings."""

    @property
    def name(self) -> str:
        return str(self.document["journey"])

    def entry(self, people: People, user: str) -> tuple[str, int | None] | None:
        """Give the entry by which a user enters, and the value that he brings; null where he does not enter."""
        if "start" in self.tests and self.tests["start"](people.users[user]):
            return "start", None
        entry, number = self.sent_in.get(user, ("", 0))
        return (entry, number) if entry == "door" or (entry == "begin" and number >= 2) else None

    def walk(self, people: People, user: str) -> tuple[list[tuple[str, str]], str, list[str]]:
        """Interpret the document: the steps, the exit, and the outcome of each push."""
        entry, number = self.entry(people, user) or ("start", None)
        at = self.document["entries"][entry]["next"]
        steps: list[tuple[str, str]] = []
        pushes: list[str] = []
        row = {**people.users[user], "entry": number}
        while (element := self.document["elements"][at])["kind"] != "exit":
            branch = "next"
            if element["kind"] == "push":
                pushes.append(push_outcome(element, row, people.devices[user]))
                if "next" not in element:
                    branch = "accepted" if pushes[-1] == "accepted" else "not_accepted"
            elif element["kind"] == "update-user":
                row["stamp"] = self.document["journey"]
            elif element["kind"] == "wait-for-trigger":
                branch = self.wait(people, at, user)[0]
            elif element["kind"] != "time-delay":
                branch = self.decide(at, element, row, people.devices[user], user)
            steps.append((at, branch))
            way = element["next"] if branch == "next" else element["branches"][branch]
            at = way if isinstance(way, str) else way["next"]
        return steps, at, pushes

    def wait(self, people: People, at: str, user: str) -> tuple[str, list[Did], bool]:
        """Tell what ends a user's wait, what he does meanwhile, and whether the time has to pass for it."""
        element = self.document["elements"][at]
        branches = {name: way for name, way in element["branches"].items() if name != "not_triggered"}
        if any(
            "in_segment" in way and self.tests[f"{at}.{name}"](people.users[user]) for name, way in branches.items()
        ):
            return next(name for name, way in branches.items() if "in_segment" in way), [], False
        chance = random.Random(f"{self.name} {at} {user}")
        script = [(chance.choice(["did", "saw"]), chance.randrange(1, 4)) for _ in range(chance.choice([0, 1, 2, 3]))]
        fixed = element.get("fixed", False)
        for number in range(1, len(script) + 1):
            came = [name for name, way in branches.items() if is_complete(way, script[:number])]
            if came:
                return came[0], script if fixed else script[:number], fixed
        return "not_triggered", script, True

    def decide(self, at: str, element: dict[str, Any], row: User, devices: list[str], user: str) -> str:
        """Give the branch of an element that decides."""
        if "by" in element and "entry" in element["by"]:
            number = row["entry"]
            return "all_other_users" if number is None else "few" if number < 3 else "many"
        if "by" in element:
            return {"free": "free", "paid": "payer", "pro": "payer"}.get(row["plan"], "all_other_users")
        if element["kind"] == "condition-split":
            return "users_in_segment" if self.tests[at](row) else "all_other_users"
        if element["kind"] == "reachability-check":
            return "reachable" if devices else "not_reachable"
        return variant_of(SplitTest.model_validate(element), self.document["journey"], at, user)


def is_complete(way: dict[str, Any], done: list[Did]) -> bool:
    """Tell whether what a user did completes a branch of a wait."""
    meant = [
        any(name == trigger["event"] and number >= trigger["where"]["at_least"] for name, number in done)
        for trigger in way.get("all") or way.get("any") or filter(None, [way.get("trigger")])
    ]
    return all(meant) if "all" in way else any(meant)


def push_outcome(element: dict[str, Any], row: User, devices: list[str]) -> str:
    """Give what becomes of a push."""
    if not devices:
        return "skipped: no-reachable-device"
    if "nick" in element["message"]["title"] and row["nick"] is None:
        return "skipped: value-missing"
    return "accepted"


def wait(chance: random.Random, name: str, after: list[str], tests: dict[str, Test]) -> dict[str, Any]:
    """Make a wait for events, or for a segment, too."""

    def trigger() -> dict[str, Any]:
        least = chance.randrange(1, 4)
        return {"event": chance.choice(["did", "saw"]), "where": {"property": "n", "at_least": least}}

    ways: dict[str, Any] = {}
    for kind in chance.sample(["one", "some", "both", "inside"], chance.choice([1, 2])):
        ways[kind] = {"next": chance.choice(after)}
        match kind:
            case "one":
                ways[kind]["trigger"] = trigger()
            case "some" | "both":
                ways[kind]["any" if kind == "some" else "all"] = [trigger(), trigger()]
            case _:
                ways[kind]["in_segment"], tests[f"{name}.{kind}"] = condition(chance)
    fixed = "inside" not in ways and chance.random() < 0.3
    branches = {**ways, "not_triggered": chance.choice(after)}
    return {"kind": "wait-for-trigger", "up_to": "1h", "fixed": fixed, "branches": branches}


def brought(chance: random.Random, after: list[str]) -> dict[str, Any]:
    """Make a split by the value that the user brings: who enters by an audience has none."""
    tests = {"few": {"less_than": 3}, "many": {"at_least": 3}}
    branches: dict[str, Any] = {branch: {**test, "next": chance.choice(after)} for branch, test in tests.items()}
    branches["all_other_users"] = chance.choice(after)
    return {"kind": "condition-split", "by": {"entry": "n"}, "branches": branches}


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
            branches = dict[str, Any](ways("all_other_users"))
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


def example(chance: random.Random, name: str, audience: People | None = None) -> Example:
    """Make a valid journey: each element leads to later ones only, and what nothing reaches is left out.

    Args:
        chance: Decides.
        name: The journey's name.
        audience: Given, there are waits for events too, and entries by which some of these users are sent in.
    """
    exits = [f"exit-{number}" for number in range(chance.choice([1, 2]))]
    ids = [f"e{number}" for number in range(chance.randrange(1, 8))]
    elements: dict[str, Any] = {}
    tests: dict[str, Test] = {}
    for place, element in enumerate(ids):
        after = [*ids[place + 1 : place + 3], *exits]
        kind = "plain"
        if audience is not None:
            kind = chance.choice(["plain", "plain", "wait", "wait", "brought"]) if place else "wait"
        if kind == "wait":
            elements[element] = wait(chance, element, after, tests)
        elif kind == "brought":
            elements[element] = brought(chance, after)
        else:
            elements[element] = box(chance, name, element, after, tests)
    elements.update({exit_: {"kind": "exit"} for exit_ in exits})
    entries: dict[str, Any] = {}
    sent_in: dict[str, tuple[str, int]] = {}
    if audience is not None:
        entries["door"] = {"kind": "api-entry", "next": ids[0]}
        trigger = {"event": "join", "where": {"property": "n", "at_least": 2}}
        entries["begin"] = {"kind": "trigger-entry", "trigger": trigger, "next": chance.choice(ids[:2])}
        who = chance.sample(sorted(audience.users), len(audience.users) * 2 // 3)
        sent_in = {user: (chance.choice(["door", "begin"]), chance.randrange(1, 5)) for user in who}
    if audience is None or chance.random() < 0.6:
        match, tests["start"] = condition(chance)
        entries["start"] = {"kind": "audience-entry", "audience": match, "next": ids[0]}
    reached, waiting = set(), [entry["next"] for entry in entries.values()]
    while waiting:
        element = waiting.pop()
        reached.add(element)
        found = elements[element]
        ways = [*found.get("branches", {}).values(), *([found["next"]] if "next" in found else [])]
        waiting += [way if isinstance(way, str) else way["next"] for way in ways]
    kept = {element: found for element, found in elements.items() if element in reached}
    return Example({"journey": name, "entries": entries, "elements": kept}, tests, sent_in)
