"""Memberships: one evaluation answers for many, never from before what the asking run has seen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.segments.imported import read_members, store_members
from activities.segments.memberships import Ids, Membership, Memberships
from activities.segments.segments import Evaluation, Segments
from tests.condition_tables import CONDITION
from tests.house import House
from workflows.conditions import Condition
from workflows.errors import NotFoundError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = timedelta(seconds=60)
MEBIBYTE = 1 << 20

Found = TypeVar("Found")


class CountedSegments(Segments):
    """Real segments that count their evaluations, and let a test say when one may go on."""

    def __init__(self, house: House) -> None:
        super().__init__(house.stores.tables, house.stores.catalogue, "UTC")
        self.evaluated: list[datetime] = []
        self.gate = threading.Event()
        self.gate.set()

    def evaluate(self, condition: Condition, as_of: datetime, **options: Any) -> Evaluation:
        self.evaluated.append(as_of)
        assert self.gate.wait(10)
        return super().evaluate(condition, as_of, **options)


def condition(**fields: Any) -> Condition:
    return CONDITION.validate_python(fields)


PAYING = condition(segment="paying")
"""Timeless: it stays true while tables and segments stay the same."""
RECENT = condition(attribute="seen_at", within_last="30d")
"""Not timeless: it changes as time goes by."""


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def users_of(membership: Membership) -> set[str]:
    return {one.decode() for one in membership.ids}


@pytest.fixture
def segments(house: House) -> CountedSegments:
    house.load("users", "user_id,seen_at\nu1,2026-02-20T00:00:00Z\nu2,2026-01-30T12:00:30Z\n")
    return CountedSegments(house)


def finish(work: Coroutine[Any, Any, Found], seconds: float = 15) -> Found:
    """Run on a loop of its own, so that a loop which never comes back fails the test and holds nothing up."""
    answers: list[Found] = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(work)), daemon=True)
    thread.start()
    thread.join(seconds)
    assert answers, "the loop hangs, or the work failed"
    return answers[0]


async def test_misses_share_one_evaluation(segments: CountedSegments) -> None:
    """200 who ask at once while nothing is known wait for one evaluation, also when one of them gives up."""
    memberships = Memberships(segments, WINDOW, MEBIBYTE)
    segments.gate.clear()
    asking = [asyncio.create_task(memberships.membership(PAYING, "UTC", NOW)) for _ in range(200)]
    await asyncio.sleep(0.05)
    asking[0].cancel()
    segments.gate.set()
    found = await asyncio.gather(*asking[1:])
    assert {id(one) for one in found} == {id(found[0])}
    assert users_of(found[0]) == {"u1", "u2", "u4", "u6"}
    assert segments.evaluated == [NOW]


async def test_the_freshness_window(segments: CountedSegments) -> None:
    """An answer serves up to the window's age, its edge included, and is evaluated anew after it."""
    memberships = Memberships(segments, WINDOW, MEBIBYTE)
    for moment in (0, 30, 60):
        await memberships.membership(RECENT, "UTC", after(moment))
    assert segments.evaluated == [NOW]
    found = await memberships.membership(RECENT, "UTC", after(60.001))
    assert segments.evaluated == [NOW, after(60.001)]
    assert (found.as_of, users_of(found)) == (after(60.001), {"u1"})


async def test_no_window_is_exact_at_arrival(segments: CountedSegments) -> None:
    """With freshness 0 each later instant is evaluated for itself; the same instant is not evaluated twice."""
    memberships = Memberships(segments, timedelta(0), MEBIBYTE)
    for moment in (0, 0, 30, 31):
        found = await memberships.membership(RECENT, "UTC", after(moment))
        assert users_of(found) == ({"u1", "u2"} if moment <= 30 else {"u1"})
    assert segments.evaluated == [after(0), after(30), after(31)]


@pytest.mark.parametrize("order", [1, -1])
def test_no_window_is_still_shared_by_all_that_wait(segments: CountedSegments, order: int) -> None:
    """With freshness 0, 100 who wait at different instants share a round, and none is answered from before his own."""

    async def work() -> list[tuple[datetime, Membership]]:
        memberships = Memberships(segments, timedelta(0), MEBIBYTE)
        segments.gate.clear()
        moments = [NOW, *[after(n / 10) for n in range(1, 100)][::order]]
        asking = [asyncio.create_task(memberships.membership(RECENT, "UTC", moment)) for moment in moments]
        await asyncio.sleep(0.05)
        segments.gate.set()
        return list(zip(moments, await asyncio.gather(*asking), strict=True))

    for moment, found in finish(work()):
        assert found.valid_at >= moment
    assert segments.evaluated == [NOW, after(9.9)]


def test_asking_at_every_moment_of_a_round_ends(segments: CountedSegments) -> None:
    """Whoever asks in the very moment that an evaluation ends is answered: the event loop is never held."""

    async def work() -> int:
        memberships = Memberships(segments, timedelta(0), MEBIBYTE)
        asking = []
        for number in range(20_000):
            asking.append(asyncio.create_task(memberships.membership(RECENT, "UTC", after(number / 1_000))))
            await asyncio.sleep(0)
        return len(await asyncio.gather(*asking))

    assert finish(work()) == 20_000


async def test_what_the_run_has_seen_is_honoured(segments: CountedSegments, house: House) -> None:
    """A fresh answer from before the run's own last event is not used; one from that instant on is."""
    memberships = Memberships(segments, WINDOW, MEBIBYTE)
    await memberships.membership(PAYING, "UTC", NOW)
    house.load("users", "user_id,plan\nu3,paid\n")
    stale = await memberships.membership(PAYING, "UTC", after(10), seen=NOW)
    assert not stale.ids.holds("u3")
    exact = await memberships.membership(PAYING, "UTC", after(10), seen=after(5))
    assert exact.ids.holds("u3")
    assert segments.evaluated == [NOW, after(10)]
    await memberships.membership(PAYING, "UTC", after(12), seen=after(10))
    assert len(segments.evaluated) == 2


def test_an_event_ahead_of_the_clock_is_answered(segments: CountedSegments) -> None:
    """A run whose last event lies ahead of its own clock is answered as of that event."""
    memberships = Memberships(segments, WINDOW, MEBIBYTE)
    found = finish(memberships.membership(RECENT, "UTC", NOW, seen=after(2)), 5)
    assert found.valid_at == after(2)


async def test_a_timeless_condition_is_confirmed(segments: CountedSegments) -> None:
    """After the window, with unchanged tables, a timeless answer is confirmed without evaluating; others are not."""
    memberships = Memberships(segments, WINDOW, MEBIBYTE)
    for moment in (0, 100, 1_000):
        timeless = await memberships.membership(PAYING, "UTC", after(moment))
        assert (timeless.as_of, timeless.valid_at) == (NOW, after(moment))
    assert segments.evaluated == [NOW]
    for moment in (0, 100):
        await memberships.membership(RECENT, "UTC", after(moment))
    assert segments.evaluated == [NOW, after(0), after(100)]


async def test_changes_are_noticed_after_the_window(segments: CountedSegments, house: House) -> None:
    """A new definition of a segment, and newly imported users, are unseen within the window and seen after it."""
    memberships = Memberships(segments, WINDOW, MEBIBYTE)
    first = await memberships.membership(PAYING, "UTC", NOW)
    house.save("segment: paying\nmatch: {attribute: plan, is: free}\n")
    assert await memberships.membership(PAYING, "UTC", after(60)) is first
    assert users_of(await memberships.membership(PAYING, "UTC", after(61))) == {"u3"}
    house.load("users", "user_id,plan\nu7,free\n")
    assert users_of(await memberships.membership(PAYING, "UTC", after(90))) == {"u3"}
    assert users_of(await memberships.membership(PAYING, "UTC", after(122))) == {"u3", "u7"}
    (folder := house.settings.home / "lists").mkdir()
    for ids, expected in (("u1\nu2\n", {"u1", "u2"}), ("u2\nu6\n", {"u2", "u6"})):
        (folder / "vip.csv").write_text(f"user_id\n{ids}", encoding="utf-8")
        _import_vip(house)
        moment = after(200 if "u1" in ids else 300)
        assert users_of(await memberships.membership(condition(segment="vip"), "UTC", moment)) == expected


def _import_vip(house: House) -> None:
    path = house.settings.home / "lists" / "vip.csv"
    found = read_members(
        house.stores.tables, "vip", path, column=None, identifier="user_id", rejects_dir=house.settings.rejects
    )
    store_members(house.stores.tables, found.segment, found.report.members)
    house.stores.catalogue.save([found.segment], lambda _: [], NOW)


async def test_bytes_are_bounded_and_the_least_used_leaves(segments: CountedSegments, house: House) -> None:
    """Three memberships where two fit: the one that was asked for least lately is evaluated again, no other."""
    house.load("users", "user_id,club\n" + "".join(f"m{n:04},{'abc'[n % 3]}\n" for n in range(3_000)))
    clubs = [condition(attribute="club", **{"is": club}) for club in "abc"]
    size = (await Memberships(segments, WINDOW, MEBIBYTE).membership(clubs[0], "UTC", NOW)).ids.size_bytes
    assert 1_000 * 5 <= size < 1_000 * 16
    memberships = Memberships(segments, WINDOW, 2 * size)
    segments.evaluated.clear()
    asked = [0, 1, 0, 2, 0, 2, 1]
    evaluations = []
    for club in asked:
        await memberships.membership(clubs[club], "UTC", NOW)
        evaluations.append(len(segments.evaluated))
    assert evaluations == [1, 2, 2, 3, 3, 3, 4]


@given(st.sets(st.text(max_size=6) | st.sampled_from(["u", "u1", "u10", "u1 ", "é", "e\u0301", "𝕦", "\0"])), st.data())
def test_ids_are_exact(ids: set[str], data: st.DataObject) -> None:
    """Every id that is there is held and no other, prefixes and all of Unicode included."""
    held = Ids(pl.Series(sorted(ids, key=str.encode), dtype=pl.String))
    assert [one.decode() for one in held] == sorted(ids, key=str.encode)
    for one in ids:
        assert held.holds(one)
        assert held.holds(one[:-1]) == (one[:-1] in ids)
        assert held.holds(one + "0") == (one + "0" in ids)
    asked = data.draw(st.text(max_size=7))
    assert held.holds(asked) == (asked in ids)


def test_ids_are_exact_over_slices() -> None:
    """Ids beyond one copied slice are where they belong, and the order is the one that polars sorts by."""
    ids = pl.Series([f"{n}é{n % 7}" for n in range(250_000)]).sort()
    held = Ids(ids)
    assert len(held) == 250_000
    assert all(held.holds(one) for one in ids.gather_every(997))
    assert not any(held.holds(one + "x") for one in ids.gather_every(997))


async def test_a_reference_to_nothing_reaches_all_who_wait(segments: CountedSegments, house: House) -> None:
    """A segment that nobody saved fails each who waits, with its name; once saved, the next is answered."""
    memberships = Memberships(segments, WINDOW, MEBIBYTE)
    nowhere = condition(segment="nowhere")
    answers = await asyncio.gather(
        *(memberships.membership(nowhere, "UTC", NOW) for _ in range(50)), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {NotFoundError}
    assert all("nowhere" in str(answer) for answer in answers)
    house.save("segment: nowhere\nmatch: {attribute: plan, is: free}\n")
    assert users_of(await memberships.membership(nowhere, "UTC", NOW)) == {"u3"}


async def test_time_far_ahead_does_not_spoil_the_present(segments: CountedSegments) -> None:
    """A run whose clock was skipped 60 days ahead, waiting beside others, changes no answer for now."""
    memberships = Memberships(segments, WINDOW, MEBIBYTE)
    ahead = NOW + timedelta(days=60)
    segments.gate.clear()
    moments = [NOW, ahead, after(1), ahead + timedelta(seconds=1), after(2)]
    asking = [asyncio.create_task(memberships.membership(RECENT, "UTC", moment)) for moment in moments]
    await asyncio.sleep(0.05)
    segments.gate.set()
    answers = [users_of(found) for found in await asyncio.gather(*asking)]
    assert answers == [{"u1", "u2"}, set(), {"u1", "u2"}, set(), {"u1", "u2"}]
    assert users_of(await memberships.membership(RECENT, "UTC", after(3))) == {"u1", "u2"}
    assert users_of(await memberships.membership(RECENT, "UTC", ahead)) == set()
