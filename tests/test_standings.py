"""Standings: answers about one user each, which share scans and agree with the membership."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from activities.segments.compiler import Snapshot
from activities.segments.memberships import Ids
from activities.segments.segments import Segments
from activities.segments.standings import Standing, Standings
from activities.segments.turning import TICK
from tests.condition_tables import condition
from tests.house import House
from workflows.contracts import Versions
from workflows.errors import NotFoundError, StoreUnavailable

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
UNTIL = NOW + timedelta(days=90)
CROWD = 300
TEXT = (
    "{any: [{attribute: seen, within_last: 7d}, {segment: buyers}, "
    "{all: [{segment: vip}, {device: last_seen, days_ago: {at_most: 2}}]}]}"
)


class CountedSegments(Segments):
    """Real segments that count how often their tables are opened."""

    opened = 0

    def snapshot(self, versions: Versions) -> Snapshot:
        self.opened += 1
        return super().snapshot(versions)


@pytest.fixture
def segments(house: House) -> CountedSegments:
    """A crowd seen at different days, of whom some bought, some are listed, and some have devices."""
    users, events, devices = ["user_id,seen"], ["user_id,event,at"], ["device_id,user_id,platform,last_seen,opt_in"]
    for number in range(CROWD):
        seen = NOW - timedelta(days=number % 11, hours=number % 24)
        users.append(f"c{number},{seen:%Y-%m-%dT%H:%M:%SZ}" if number % 5 else f"c{number},")
        if number % 7 == 0:
            events.append(f"c{number},purchase,{NOW - timedelta(days=number % 13):%Y-%m-%dT%H:%M:%SZ}")
        if number % 3 == 0:
            devices.append(f"d{number},c{number},ios,{NOW - timedelta(days=number % 6):%Y-%m-%dT%H:%M:%SZ},true")
    for table, rows in (("users", users), ("events", events), ("devices", devices)):
        house.load(table, "\n".join(rows) + "\n")
    (house.settings.home / "vip.csv").write_text(
        "user_id\n" + "".join(f"c{number}\n" for number in range(0, CROWD, 4)), encoding="utf-8"
    )
    house.save("{segment: buyers, match: {event: purchase, within_last: 5d}}")
    house.save("{segment: vip, match: {file: vip.csv}}", folder=house.settings.home)
    return CountedSegments(house.stores.tables, house.stores.catalogue, "UTC")


async def test_they_agree_with_the_membership(segments: CountedSegments) -> None:
    """Asked together, all share a few scans, and each answer is the one that a membership gives at that instant."""
    standings, node = Standings(segments), condition(TEXT)
    users = [*(f"c{number}" for number in range(CROWD)), "stranger"]
    asked = (standings.look_up(node, "UTC", user, NOW, UNTIL) for user in users)
    found: dict[str, Standing] = dict(zip(users, await asyncio.gather(*asked), strict=True))
    assert segments.opened <= 2

    def members(as_of: datetime) -> Ids:
        return Ids(segments.evaluate(node, as_of).users.get_column("user_id"))

    now = members(NOW)
    assert {user for user, one in found.items() if one.member} == {one.decode() for one in now}
    assert not found["stranger"].member
    assert found["stranger"].turns_at is None
    # At each user's own moment the membership of all changes for him, and a tick earlier it has not.
    moments = sorted({one.turns_at for one in found.values() if one.turns_at is not None})
    assert len(moments) > 10
    for moment in moments[::5]:
        then, before = members(moment), members(moment - TICK)
        for user, one in found.items():
            if one.turns_at == moment:
                assert then.holds(user) != one.member == before.holds(user), (user, moment)
    tables = found["c1"].tables
    assert tables["users"] == segments.tables.version("users")
    assert {"segment/buyers", "segment/vip"} <= set(tables)


async def test_a_failure_is_told_to_those_who_asked(segments: CountedSegments, house: House) -> None:
    """Tables that are away, and a segment that nobody saved, fail those who asked; the next ones are answered."""
    standings, node = Standings(segments), condition(TEXT)
    there = house.settings.home / "tables"
    away = there.rename(there.with_name("away"))
    asked = (standings.look_up(node, "UTC", f"c{number}", NOW, UNTIL) for number in range(3))
    failed = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in failed] == [StoreUnavailable] * 3
    away.rename(there)
    with pytest.raises(NotFoundError, match="nobody"):
        await standings.look_up(condition("{segment: nobody}"), "UTC", "c1", NOW, UNTIL)
    assert (await standings.look_up(node, "UTC", "c1", NOW, UNTIL)).member
