"""The plan: what it says of a snapshot is what a start on that snapshot does, to the last user and device."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from sqlalchemy import func, select

from activities.planning.plan import Plan
from activities.records.rows import passages, pushes, refusals, steps
from tests.house import House
from workers.plugin import JourneysPlugin
from workers.serving import run_workers
from workflows.contracts import Stats

CROWD = 36

PLAIN = """\
journey: planned
entries:
  start: {kind: audience-entry, audience: {attribute: plan, in: [paid, pro]}, next: grown}
elements:
  grown:
    kind: condition-split
    match: {attribute: age, at_least: 18}
    branches: {users_in_segment: hi, all_other_users: out}
  hi: {kind: push, message: {title: Hi, body: there}, next: out}
  out: {kind: exit}
"""

MISSING = """\
journey: planned
entries:
  start: {kind: audience-entry, audience: {everyone: true}, next: hi}
elements:
  hi:
    kind: push
    message:
      title: "Dear {{ user.first_name }}"
      body: "{{ device.app_version }} from {{ user.country | default: 'afar' }}"
    branches: {accepted: again, not_accepted: out}
  again: {kind: push, message: {title: Again, body: "{{ user.age }}"}, next: out}
  out: {kind: exit}
"""

LANGUAGES = """\
journey: planned
entries:
  start: {kind: audience-entry, audience: {attribute: age, at_least: 0}, next: hi}
elements:
  hi:
    kind: push
    message:
      title: Hello
      body: there
      languages:
        fr: {title: "Bonjour {{ user.first_name }}"}
        no: {title: Hei, body: "{{ user.country }}"}
    branches: {accepted: yes-way, not_accepted: plain}
  plain: {kind: push, message: {title: Plain, body: text}, branches: {accepted: yes-way, not_accepted: no-way}}
  yes-way: {kind: exit}
  no-way: {kind: exit}
"""

SPLITS = """\
journey: planned
entries:
  start: {kind: audience-entry, audience: {not: {segment: grown}}, next: first}
elements:
  first: {kind: condition-split, match: {segment: payers}, branches: {users_in_segment: second, all_other_users: hi}}
  second:
    kind: condition-split
    match: {any_device: {attribute: platform, is: ios}}
    branches: {users_in_segment: hi, all_other_users: third}
  third:
    kind: condition-split
    match: {attribute: country, is_not: FR}
    branches: {users_in_segment: hi, all_other_users: out}
  hi: {kind: push, message: {title: Hi, body: there}, next: out}
  out: {kind: exit}
"""

CHOSEN_DEVICES = """\
journey: planned
entries:
  start: {kind: audience-entry, audience: {everyone: true}, next: ios}
elements:
  ios: {kind: push, devices: {attribute: platform, is: ios}, message: {title: Hi, body: there}, next: latest}
  latest: {kind: push, send_to: latest, message: {title: Hi, body: there}, next: out}
  out: {kind: exit}
"""

STRAIGHT = """\
journey: planned
entries:
  start: {kind: audience-entry, audience: {everyone: true}, next: out}
elements:
  out: {kind: exit}
"""

DOCUMENTS = {
    "plain": PLAIN,
    "missing-value": MISSING,
    "languages": LANGUAGES,
    "splits": SPLITS,
    "chosen-devices": CHOSEN_DEVICES,
    "straight": STRAIGHT,
}


def load_crowd(house: House, seed: int) -> None:
    """Import users and devices with the gaps that real tables have."""
    chance = random.Random(seed)
    users = ["user_id,first_name,plan,age,country"]
    devices = ["device_id,user_id,platform,token,language,opt_in,app_version"]
    for number in range(CROWD):
        cells = [("Anna", "Élodie", ""), ("free", "paid", "pro", ""), (16, 17, 18, 40, ""), ("FR", "NO", "")]
        users.append(f"c{number}," + ",".join(str(chance.choice(one)) for one in cells))
        for place in range(chance.choice((0, 1, 1, 2, 3))):
            cells = [("ios", "android"), ("t", "t", ""), ("fr", "fr-CA", "no", "en", ""), ("true", "true", "false", "")]
            versions = ("1.2.0", "2.0.0", "")
            values = ",".join(str(chance.choice(one)) for one in (*cells, versions))
            devices.append(f"c{number}-{place},c{number},{values}")
    house.load("users", "\n".join(users) + "\n")
    house.load("devices", "\n".join(devices) + "\n")
    house.save("segment: payers\nmatch: {attribute: plan, in: [paid, pro]}\n")


def written(house: House) -> list[int]:
    """Count the rows of everything that a journey writes."""

    def work(connection: Any) -> list[int]:
        tables = (passages, steps, pushes, refusals)
        return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]

    return house.stores.ledger.database.read(work)


def require_same(plan: Plan, stats: Stats, earlier: Stats | None = None) -> None:
    """Hold what a start did against what the plan said; where it ran before, what came on top."""

    def more(name: str, of: str) -> dict[str, int]:
        now: dict[str, int] = getattr(stats.elements[name], of)
        before: dict[str, int] = getattr(earlier.elements[name], of) if earlier else {}
        return {key: found for key in now if (found := now[key] - before.get(key, 0))}

    assert plan.elements.keys() == stats.elements.keys()
    devices = 0
    for name, planned in plan.elements.items():
        arrived = stats.elements[name].arrived - (earlier.elements[name].arrived if earlier else 0)
        assert planned.arrived == arrived, name
        assert {key: found for key, found in planned.branches.items() if found} == more(name, "branches"), name
        assert planned.users == more(name, "users"), name
        devices += sum(more(name, "devices").values())
    accepted = sum(planned.users.get("accepted", 0) for planned in plan.elements.values())
    assert (plan.pushes.users, plan.pushes.devices) == (accepted, devices)
    assert sum(plan.pushes.by_provider.values()) == devices


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_the_plan_is_what_happens(house: House, name: str) -> None:
    """Plan, then start on the same snapshot: no difference at any branch, outcome or device; a plan writes nothing."""
    load_crowd(house, seed=len(name))
    house.save(DOCUMENTS[name])
    before = written(house)
    plan = house.engine.plan("planned")
    assert written(house) == before
    client = await house.client(JourneysPlugin(house.stores, sandbox=False))
    async with run_workers(client, house.settings):
        stats = await house.engine.result(await house.engine.start("planned", client=client), client=client)
        assert (plan.audience, plan.refused) == (stats.audience, {})
        assert stats.audience > 5
        require_same(plan, stats)
        # Planned again, the re-entry rule keeps everybody out: and so does the start.
        again = house.engine.plan("planned")
        assert again.refused == {"entered-before": stats.audience}
        second = await house.engine.result(await house.engine.start("planned", client=client), client=client)
        assert second.refused == again.refused
        require_same(again, second, stats)


async def test_several_audience_entries(house: House) -> None:
    """With several entries each user is admitted by the first that holds him, and the plan says so."""
    house.hold_pushes()
    load_crowd(house, seed=5)
    house.save("""\
        journey: planned
        entries:
          payers: {kind: audience-entry, audience: {segment: payers}, next: hi}
          french: {kind: audience-entry, audience: {attribute: country, is: FR}, next: split}
        elements:
          split:
            kind: condition-split
            match: {attribute: age, is: 18}
            branches: {users_in_segment: hi, all_other_users: wait}
          wait: {kind: push, message: {title: Late, body: "{{ user.country }}"}, next: out}
          hi: {kind: push, message: {title: Hi, body: there}, next: out}
          out: {kind: exit}
        """)
    plan = house.engine.plan("planned")
    assert plan.refused["already-inside"] > 1
    client = await house.client(JourneysPlugin(house.stores, sandbox=False))
    # Pushes come after enrolment, so that whom the first entry admitted is still inside at the second.
    async with run_workers(client, house.settings, "journeys"), run_workers(client, house.settings, "users"):
        report = await house.engine.start("planned", client=client)
        journey = client.get_workflow_handle(report.workflow_id)
        while "waiting" not in (await journey.query("status"))["doing"]:
            await asyncio.sleep(0.05)
        async with run_workers(client, house.settings, "push"):
            stats = await house.engine.result(report, client=client)
    assert (plan.audience, plan.refused) == (stats.audience, stats.refused)
    require_same(plan, stats)


@pytest.mark.parametrize("seed", range(4))
def test_the_fast_path_counts_as_the_composed_one(house: House, seed: int) -> None:
    """A message that reads the same for all is counted by polars: the same numbers as composing it for each user."""
    load_crowd(house, seed)
    text = PLAIN.replace("{attribute: plan, in: [paid, pro]}", "{everyone: true}").replace(
        "next: out}\n  out", "%s}\n  out"
    )
    for ways in ("next: out", "branches: {accepted: out, not_accepted: out}"):
        house.save(text % ways)
        fast = house.engine.plan("planned")
        house.save((text % ways).replace("title: Hi", "title: '{{ user.user_id }}'"))
        composed = house.engine.plan("planned", now=fast.as_of)
        assert fast == composed
        assert 0 < fast.pushes.users < fast.elements["hi"].arrived
