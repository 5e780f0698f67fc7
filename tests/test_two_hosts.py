"""Two hosts that write one ledger on PostgreSQL at once: nobody enters, is sent or is numbered twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select

from activities.push.claims import Cap, Claims
from activities.push.rates import Rates
from activities.records.admissions import Arrival
from activities.records.catalogue import Catalogue, ImportedSegment
from activities.records.database import Database
from activities.records.gate import Gate
from activities.records.ledger import Ledger
from activities.records.rows import passages, refusals
from tests.ledger_rows import NOW, push_row, visit
from workflows.contracts import Outcome


async def test_two_hosts_admit_each_user_once(hosts: tuple[Database, Database]) -> None:
    """Two hosts admit overlapping pages of the same users at once: each user has one passage, and no page fails."""
    dice = random.Random(11)
    users = [f"u{number}" for number in range(60)]
    asked = [
        Ledger(host).admit(Arrival(f"e{page}/{number}", "j", 1, "start", "never", NOW), dice.sample(users, 40))
        for page in range(12)
        for number, host in enumerate(hosts)
    ]
    answers = [one for page in await asyncio.gather(*asked) for one in page]
    assert Counter(one.user_id for one in answers if not one.refused) == Counter(users)
    assert len(answers) == 24 * 40
    entered, refused = (
        hosts[0].read(
            lambda connection, table=table: connection.execute(select(func.count()).select_from(table)).scalar()
        )
        for table in (passages, refusals)
    )
    assert (entered, refused) == (60, 24 * 40 - 60)


async def test_two_hosts_answer_once(hosts: tuple[Database, Database]) -> None:
    """Two hosts answer the same 40 visits at once, differently: each visit has one answer, and both give that one."""
    arrival = Arrival("e", "j", 1, "start", "never", NOW)
    admitted = await Ledger(hosts[0]).admit(arrival, [f"u{number}" for number in range(40)])

    async def answer(host: Database, said: str) -> list[Outcome]:
        ledger = Ledger(host)
        visits = [visit(one.passage, user_id=one.user_id) for one in admitted]
        return await asyncio.gather(*(ledger.record(one, Outcome(branch=said), outcome=said) for one in visits))

    one, two = await asyncio.gather(answer(hosts[0], "one"), answer(hosts[1], "two"))
    assert one == two


def unfinished(_: Counter[str]) -> tuple[Outcome, str]:
    return Outcome(branch="next"), "unknown"


async def claim(host: Database, passage: str, user: str, caps: list[Cap]) -> tuple[list[str], bool]:
    """Try to claim one push to two devices; tells which to send to, and whether a cap held it back."""
    rows = [push_row(passage, user, f"{user}-{number}") for number in range(2)]
    given = visit(passage, user_id=user)
    found = await Claims(Ledger(host)).claim(given, rows, resend=False, caps=caps, finish=unfinished, now=NOW)
    return found.send, found.capped


async def test_two_hosts_claim_each_push_once(hosts: tuple[Database, Database]) -> None:
    """Two hosts claim the same pushes at once: each device is sent to by one of them."""
    tries = [claim(host, f"p{user}", f"u{user}", []) for user in range(40) for host in hosts]
    sent = Counter(device for devices, _ in await asyncio.gather(*tries) for device in devices)
    assert sent == Counter(f"u{user}-{number}" for user in range(40) for number in range(2))


async def test_two_hosts_keep_a_cap(hosts: tuple[Database, Database]) -> None:
    """Two hosts push to the same users by several journeys at once: no user gets more than the cap allows."""
    caps = [Cap(2, timedelta(days=7))]
    tries = [
        claim(host, f"p{user}-{number}-{host is hosts[0]}", f"u{user}", caps)
        for number in range(3)
        for user in range(30)
        for host in hosts
    ]
    sent = Counter(devices[0] for devices, _ in await asyncio.gather(*tries) if devices)
    assert sent == Counter({f"u{user}-0": 2 for user in range(30)})


async def test_two_hosts_share_an_allowance(hosts: tuple[Database, Database]) -> None:
    """Two hosts lease from the same second of 20 providers at once: together no more than each one's allowance."""
    leasing = [Rates(host, lambda: 1_000_000.5) for host in hosts]
    providers = [f"provider-{number}" for number in range(20)]
    for provider in providers:
        leasing[0].set_limit(provider, 300)

    async def take_all(rates: Rates, provider: str) -> int:
        taken = 0
        while await rates.take(provider, 0):
            taken += 1
        return taken

    async def together(provider: str) -> int:
        return sum(await asyncio.gather(*(take_all(rates, provider) for rates in leasing)))

    # A tenth of it, after a quiet minute.
    assert await asyncio.gather(*map(together, providers)) == [30] * 20


async def test_two_hosts_number_versions_without_a_gap(hosts: tuple[Database, Database]) -> None:
    """Two hosts save 40 contents of one segment at once: versions 1 to 40; then the same content: one version."""

    def save(host: Database, number: int) -> Any:
        imported = ImportedSegment(
            segment="vip", import_id=f"i{number}", source="vip.csv", identifier="user_id", users=number
        )
        (saved,) = Catalogue(host).save([imported], lambda _: [], NOW)
        return saved.version

    work = [asyncio.to_thread(save, hosts[number % 2], number) for number in range(40)]
    assert sorted(await asyncio.gather(*work)) == list(range(1, 41))
    again = [asyncio.to_thread(save, host, 99) for host in hosts for _ in range(4)]
    assert set(await asyncio.gather(*again)) == {41}


async def test_two_hosts_hold_nobody_behind_a_resumption(hosts: tuple[Database, Database]) -> None:
    """While one host resumes a journey, the other holds visits: who is held is known to the resumption, or goes on."""
    here, there = (Gate(host) for host in hosts)
    await Ledger(hosts[0]).open_journey("j", 1, "d", "launch", NOW)
    await here.pause("j", NOW)

    async def hold(number: int) -> bool:
        await asyncio.sleep(number / 500)
        return await here.hold(visit(f"p{number}", user_id=f"u{number}"))

    async def resume() -> set[str]:
        await asyncio.sleep(0.1)
        epoch = await there.resume("j", "now", NOW)
        return {passage for passage, *_ in there.held_by("j", epoch)}

    *held, known = await asyncio.gather(*map(hold, range(150)), resume())
    assert known == {f"p{number}" for number, one in enumerate(held) if one}
    assert 0 < len(known) < 150


async def test_two_hosts_admit_nobody_into_a_finished_journey(hosts: tuple[Database, Database]) -> None:
    """While one host ends a journey, the other admits users: who enters was counted at the end, or is refused."""
    here, there = (Ledger(host) for host in hosts)
    await here.open_journey("j", 1, "d", "launch", NOW)

    async def enter(number: int) -> bool:
        await asyncio.sleep(number / 500)
        where = Arrival(f"e{number}", "j", 1, "start", "never", NOW, while_running=True)
        (admitted,) = await here.admit(where, [f"u{number}"])
        return not admitted.refused

    async def finish() -> int:
        await asyncio.sleep(0.1)
        return await there.finish_journey("j", "launch", NOW)

    *entered, counted = await asyncio.gather(*map(enter, range(150)), finish())
    assert 0 < counted == sum(entered) < 150
