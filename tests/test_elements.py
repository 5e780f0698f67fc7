"""Each element does what its document says, for one user on the real server, however long he is held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web
from temporalio.client import Client
from temporalio.testing import TimeSkipper

from activities.elements.split_test import variant_of
from activities.elements.webhook import Outside
from activities.life import stats_of
from activities.records.reports import ExplainedRun, explain
from activities.records.statistics import everybody_inside
from activities.records.winners import leading
from tests.house import House
from tests.worker_that_dies import until
from workers.plugin import JourneysPlugin
from workflows.contracts import USERS_QUEUE, Leave, UserJourneyInput, UserJourneyResult, user_workflow_id
from workflows.documents import JourneyDocument, SplitTest

ONE_ELEMENT = """\
journey: one
entries:
  start: {{kind: audience-entry, audience: {{everyone: true}}, next: it}}
elements:
  it: {element}
  done: {{kind: exit}}
"""
OTHER = "  other: {kind: exit}\n"


async def opened(house: House, element: str, journey: str = "one") -> JourneyDocument:
    """Save a journey of one element, and let runs be started by hand."""
    house.save(ONE_ELEMENT.format(element=element) + (OTHER if ": other" in element else ""))
    saved = house.stores.catalogue.find("journey", journey)
    await house.stores.ledger.open_journey(journey, saved.version, saved.digest, "test", datetime.now(UTC))
    assert isinstance(saved.document, JourneyDocument)
    return saved.document


async def pass_through(client: Client, user: str, journey: str = "one") -> UserJourneyResult:
    """Let one user pass, skipping whatever time he is held for."""
    handle = await TimeSkipper(client).client.start_workflow(
        "UserJourney",
        UserJourneyInput(journey=journey, user_id=user),
        id=user_workflow_id(journey, user),
        task_queue=USERS_QUEUE,
        result_type=UserJourneyResult,
    )
    return await asyncio.wait_for(handle.result(), 30)


def run_of(house: House, user: str, journey: str = "one") -> ExplainedRun:
    return explain(house.stores.ledger.database, journey, user).runs[-1]


async def passed(
    house: House, element: str, user: str = "u1", **options: Any
) -> tuple[UserJourneyResult, ExplainedRun]:
    await opened(house, element)
    async with house.serving(**options) as client:
        result = await pass_through(client, user)
    return result, run_of(house, user)


PARIS = ZoneInfo("Europe/Paris")


@pytest.mark.parametrize(
    ("says", "holds"),
    [
        ("duration: 3d", lambda entered, due: timedelta(days=3) <= due - entered < timedelta(days=3, minutes=1)),
        (
            "time: 09:30, timezone: Europe/Paris",
            lambda entered, due: (
                (due.astimezone(PARIS).strftime("%H:%M"), due - entered <= timedelta(hours=25)) == ("09:30", True)
            ),
        ),
        (
            "weekdays: [monday], time: 07:00, timezone: Europe/Paris",
            lambda entered, due: due.astimezone(PARIS).strftime("%A %H:%M") == "Monday 07:00",
        ),
        (
            "date: 2037-03-01, time: 10:00, timezone: UTC",
            lambda entered, due: due == datetime(2037, 3, 1, 10, tzinfo=UTC),
        ),
        (
            "until: {attribute: ends}, days: -2, time: 08:00, timezone: Europe/Paris",
            lambda entered, due: due == datetime(2035, 7, 8, 6, tzinfo=UTC),
        ),
        # The user's own zone, New York.
        ("until: {attribute: ends}, time: 08:00", lambda entered, due: due == datetime(2035, 7, 10, 12, tzinfo=UTC)),
    ],
)
async def test_a_delay_ends_when_it_says(house: House, says: str, holds: Any) -> None:
    """A user is held until the very moment that the element names, on the clock it names, and then goes on."""
    house.load("users", "user_id,ends,timezone\nu1,2035-07-10,America/New_York\n")
    result, run = await passed(house, f"{{kind: time-delay, {says}, next: done}}")
    (step,) = run.steps
    due = datetime.fromisoformat(step.because.removeprefix("held until ").replace(" UTC", "+00:00"))
    assert (result.exit, step.branch) == ("done", "next")
    assert holds(run.entered_at.replace(microsecond=0), due), (run.entered_at, due)
    assert due <= step.at < due + timedelta(minutes=1)


async def test_a_day_that_is_past_delays_nobody(house: House) -> None:
    """A date that has passed lets the user go on at once."""
    result, run = await passed(house, "{kind: time-delay, date: 2020-01-01, next: done}")
    assert (result.exit, run.steps[0].at - run.entered_at < timedelta(seconds=5)) == ("done", True)


async def test_a_date_that_cannot_be_read_is_an_exit(house: House) -> None:
    """A user whose date is missing leaves with that reason, counted where he was."""
    house.load("users", "user_id,ends\nu1,2035-07-10\n")
    result, _ = await passed(house, "{kind: time-delay, until: {attribute: ends}, next: done}", user="u2")
    assert (result.exit, result.reason) == ("", "unreadable-date")
    assert stats_of(house.stores, "one").elements["it"].left == {"unreadable-date": 1}


@pytest.mark.parametrize(
    ("user", "branch"), [("u1", "france"), ("u3", "benelux"), ("u5", "all_other_users"), ("u4", "all_other_users")]
)
async def test_a_split_by_value_takes_the_first_that_is_true(house: House, user: str, branch: str) -> None:
    """The first branch whose comparison is true is taken; without a value, "All other users"."""
    branches = "france: {is: FR, next: done}, benelux: {in: [BE, NL, FR], next: done}, all_other_users: other"
    result, run = await passed(
        house, f"{{kind: condition-split, by: {{attribute: country}}, branches: {{{branches}}}}}", user
    )
    assert (run.steps[0].branch, result.exit) == (branch, "other" if branch == "all_other_users" else "done")


async def test_a_split_test_assigns_by_a_hash_until_there_is_a_winner(house: House) -> None:
    """Each user gets the variant of his hash; once a winner is chosen, everybody gets it."""
    document = await opened(
        house, "{kind: split-test, branches: {a: {share: 50, next: done}, b: {share: 50, next: other}}}"
    )
    test = document.elements["it"]
    assert isinstance(test, SplitTest)
    async with house.serving() as client:
        for user in ("u1", "u2", "u3"):
            await pass_through(client, user)
            assert run_of(house, user).steps[0].branch == variant_of(test, "one", "it", user)
        house.stores.winners.choose("one", "it", "b")
        for user in ("u4", "u5", "u6"):
            await pass_through(client, user)
            assert run_of(house, user).steps[0].branch == "b"


async def test_the_goal_picks_the_winner(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once one variant's goal leads significantly, and each has users enough, everybody who comes gets that variant."""
    monkeypatch.setattr("activities.records.winners.LOOK_SECONDS", 0.0)
    crowd = [f"c{number:02}" for number in range(60)]
    house.load("users", "user_id,plan\n" + "".join(f"{user},free\n" for user in crowd))
    house.save("""\
        journey: one
        goals: {bought: {trigger: {event: purchase}, within: 7d}}
        entries: {start: {kind: audience-entry, audience: {everyone: true}, next: it}}
        elements:
          it:
            kind: split-test
            winner: {goal: bought, users: 10}
            branches: {a: {share: 50, next: done}, b: {share: 50, next: done}}
          done: {kind: exit}
        """)
    saved = house.stores.catalogue.find("journey", "one")
    await house.stores.ledger.open_journey("one", saved.version, saved.digest, "test", datetime.now(UTC))
    document = saved.document
    assert isinstance(document, JourneyDocument)
    split = document.elements["it"]
    assert isinstance(split, SplitTest)
    by_hash = {user: variant_of(split, "one", "it", user) for user in crowd}
    groups = [[user for user in crowd if by_hash[user] == branch] for branch in ("a", "b")]
    first, later = [group[:10] for group in groups], [user for group in groups for user in group[10:]]
    async with house.serving() as client:

        async def comes(user: str) -> tuple[str, str]:
            await pass_through(client, user)
            (step,) = run_of(house, user).steps
            return step.branch, step.because

        for user in (*first[0][:9], *first[1]):
            assert await comes(user) == (by_hash[user], "50% of the users")
        # All of `b` buy, and none of `a`: too few users of `a` are no evidence yet.
        for user in first[1]:
            await house.engine.event(user, "purchase", client=client)
        assert await comes(first[0][9]) == ("a", "50% of the users")
        # The tenth of `a` is in, so that the next user finds a winner, whatever his hash says.
        late = [user for user in later if by_hash[user] == "a"][:2] + [user for user in later if by_hash[user] == "b"][
            :1
        ]
        assert [await comes(user) for user in late] == [("b", "the winner, chosen by bought")] * 3
        # A hand that chooses another one is obeyed from then on.
        house.stores.winners.choose("one", "it", "a")
        assert await comes(later[-1]) == ("a", "the winner, chosen by hand")
    stats = stats_of(house.stores, "one")
    assert stats.elements["it"].branches == {"a": 11, "b": 13}
    assert (stats.goals["bought"].by_variant, stats.entered) == ({"it": {"b": 10}}, 24)


@pytest.mark.parametrize(
    ("rates", "winner"),
    [
        # Variant: users, and how many of them converted. The bound is 1.96 standard errors of the difference.
        ({"a": (100, 10), "b": (100, 20)}, "b"),  # z = 1.98
        ({"a": (100, 10), "b": (100, 19)}, None),  # z = 1.81
        ({"a": (1_000, 100), "b": (1_000, 128)}, "b"),  # z = 1.97
        ({"a": (99, 0), "b": (100, 90)}, None),  # too few users of one
        ({"a": (100, 0), "b": (100, 0)}, None),
        ({"a": (100, 100), "b": (100, 100)}, None),
        ({"a": (100, 5), "b": (100, 30), "c": (100, 28)}, None),  # ahead of one, not of the other
        ({"a": (100, 5), "b": (100, 30), "c": (100, 6)}, "b"),
        ({"a": (100, 50)}, None),  # the others have no share
        ({"a": (10_000, 100), "b": (100, 9)}, "b"),
    ],
)
def test_a_lead_has_to_be_significant(rates: dict[str, tuple[int, int]], winner: str | None) -> None:
    """A variant wins by a rate that leads each other's by 95 percent, whichever of them is named first."""
    assert leading(rates, 100) == winner
    assert leading(dict(reversed(rates.items())), 100) == winner


def test_shares_are_kept_by_the_hash() -> None:
    """Over many users each variant gets its share, and a share of nothing gets nobody."""
    branches = {"a": {"share": 90, "next": "x"}, "b": {"share": 10, "next": "x"}, "c": {"share": 0, "next": "x"}}
    test = SplitTest.model_validate({"kind": "split-test", "branches": branches})
    found = [variant_of(test, "j", "e", f"u{number}") for number in range(10_000)]
    assert (8_800 < found.count("a") < 9_200, found.count("c")) == (True, 0)


@pytest.mark.parametrize(("user", "branch"), [("u1", "reachable"), ("u2", "not_reachable"), ("u3", "not_reachable")])
async def test_reachability(house: House, user: str, branch: str) -> None:
    """Users with an opted-in device and an address are reachable, others are not."""
    _, run = await passed(house, "{kind: reachability-check, branches: {reachable: done, not_reachable: other}}", user)
    assert run.steps[0].branch == branch


UPDATED = """\
journey: one
entries:
  start: {kind: audience-entry, audience: {everyone: true}, next: before}
elements:
  before:
    kind: condition-split
    match: {attribute: plan, is: gold}
    branches: {users_in_segment: other, all_other_users: it}
  it: {kind: update-user, set: {plan: gold, vip: true, points: 12, home: {attribute: country}}, next: after}
  after:
    kind: condition-split
    match: {all: [{attribute: plan, is: gold}, {attribute: vip, is: true}]}
    branches: {users_in_segment: done, all_other_users: other}
  done: {kind: exit}
  other: {kind: exit}
"""


async def test_a_run_sees_what_it_has_written(house: House) -> None:
    """An update is typed, kept in the table, and seen by the very next split, whatever memberships were at hand."""
    house.save("segment: gold\nmatch: {attribute: plan, is: gold}\n")
    house.load("users", "user_id,vip,points\nu9,false,3\n")
    house.save(UPDATED)
    saved = house.stores.catalogue.find("journey", "one")
    await house.stores.ledger.open_journey("one", saved.version, saved.digest, "test", datetime.now(UTC))
    async with house.serving() as client:
        # The split's membership is warm: it was asked for another user before.
        assert (await pass_through(client, "u6")).exit == "done"
        assert (await pass_through(client, "u1")).exit == "done"
    row = house.stores.tables.collect(house.stores.tables.scan("users").filter(user_id="u1")).row(0, named=True)
    assert (row["plan"], row["vip"], row["points"], row["home"], row["age"]) == ("gold", True, 12, "FR", 30)


@asynccontextmanager
async def receiver(*statuses: int) -> AsyncIterator[tuple[str, list[tuple[dict[str, str], Any]]]]:
    """Serve an address that answers with these statuses in turn, the last one for ever, and keeps what it got."""
    got: list[tuple[dict[str, str], Any]] = []

    async def take(request: web.Request) -> web.Response:
        got.append((dict(request.headers), json.loads(await request.read())))
        return web.Response(status=statuses[min(len(got), len(statuses)) - 1])

    application = web.Application()
    application.router.add_post("/hook", take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        yield f"http://127.0.0.1:{port}/hook", got
    finally:
        await runner.cleanup()


HOOK = (
    '{{kind: webhook, url: "{url}", data: {{name: "{{{{ user.first_name | default: \'nobody\' }}}}"}}, '
    "branches: {{accepted: done, not_accepted: other}}}}"
)


@pytest.mark.parametrize(
    ("statuses", "branch", "posts"), [((200,), "accepted", 1), ((503, 200), "accepted", 2), ((400,), "not_accepted", 1)]
)
async def test_a_webhook_is_posted_with_one_key(
    house: House, statuses: tuple[int, ...], branch: str, posts: int
) -> None:
    """The object is posted, again with the same key where the other side was not ready; a refusal is a branch."""
    outside = Outside(hosts=("127.0.0.1",))
    async with receiver(*statuses) as (url, got):
        plugin = JourneysPlugin(house.stores, outside=outside)
        _, run = await passed(house, HOOK.format(url=url), plugin=plugin)
    await outside.close()
    assert (run.steps[0].branch, len(got)) == (branch, posts)
    assert {json.dumps(body, sort_keys=True) for _, body in got} == {
        json.dumps({"element": "it", "journey": "one", "name": "Anna", "user_id": "u1"}, sort_keys=True)
    }
    assert len({headers["Idempotency-Key"] for headers, _ in got}) == 1


async def test_a_webhook_of_a_user_who_was_taken_out_is_not_posted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is removed while his webhook waits to be tried again leaves at its next try, which posts nothing."""
    monkeypatch.setattr("activities.elements.webhook.RETRY_SECONDS", 1.0)
    outside = Outside(hosts=("127.0.0.1",))
    async with receiver(503, 200) as (url, got):
        await opened(house, HOOK.format(url=url))
        async with house.serving(plugin=JourneysPlugin(house.stores, outside=outside)) as client:
            passing = asyncio.create_task(pass_through(client, "u1"))
            await until(lambda: len(got) == 1)
            (one,) = everybody_inside(house.stores.ledger.database, "one")
            await house.stores.ledger.close({one.passage: Leave(exit="", reason="removed")}, datetime.now(UTC))
            assert (await passing).reason == "removed"
    await outside.close()
    assert len(got) == 1


async def test_a_webhook_does_not_reach_inside_the_network(house: House) -> None:
    """An address inside the network is refused unless a setting allows it, by number and by name."""
    async with receiver(200) as (url, got):
        _, run = await passed(house, HOOK.format(url=url))
        assert (run.steps[0].branch, run.steps[0].because) == ("not_accepted", "'127.0.0.1' is inside the network")
        _, run = await passed(house, HOOK.format(url=url.replace("127.0.0.1", "localhost")), "u2")
    assert (got, run.steps[0].branch) == ([], "not_accepted")
