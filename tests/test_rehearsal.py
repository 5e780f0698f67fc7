"""Rehearsals: one user passes by the workflow of production, with time skipped, and nothing real is touched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from activities.records.reports import explain, list_pushes
from scripts.rehearsing import read_event
from tests.commands import Commands
from tests.example_journeys import NAMES, load_shop, write_examples
from tests.house import House, open_house
from workers.engine import Engine
from workers.rehearsal import rehearse
from workers.rehearsed import GivenEvent, GivenUser, Rehearsal
from workers.stage import Stage, open_stage
from workflows.errors import NotFoundError, RefusedError


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A shop with the ten journeys saved. No server: rehearsals bring their own."""
    home = tmp_path_factory.mktemp("shop") / ".journeys"
    with open_house(home, "", "") as house:
        load_shop(house)
        house.engine.save(write_examples(home / "documents"))
        yield house


@pytest.fixture
async def stage(shop: House) -> AsyncIterator[Stage]:
    async with open_stage(shop.settings) as found:
        yield found


def event(event: str, after: str | None = None, **properties: object) -> GivenEvent:
    return GivenEvent(event=event, after=after, properties=properties)


def way(found: Rehearsal) -> list[str]:
    return [f"{step.element}: {step.branch}" for step in found.steps]


CART = event("cart_updated", total="30 EUR", cart_id="c-1")
SHIPPED = event("order_shipped", order_id="o-7")

WAYS: dict[str, tuple[str, list[GivenEvent], list[str], list[str]]] = {
    "j01-vip-hello": ("u1", [], ["hello: next"], ["Bonjour"]),
    "j02-win-back": ("u1", [], ["loyal: users_in_segment", "promo: next"], ["Merci Anna"]),
    "j03-cart": ("u1", [CART], ["wait: not_triggered", "nudge: next"], ["Your basket"]),
    "j03-cart, bought": ("u1", [CART, event("purchase", "30m", cart_id="c-1")], ["wait: bought"], []),
    "j03-cart, another bought": (
        "u1",
        [CART, event("purchase", cart_id="c-2")],
        ["wait: not_triggered", "nudge: next"],
        ["Your basket"],
    ),
    "j04-onboarding": (
        "u4",
        [event("sign_up")],
        [
            *("day-0: next", "to-day-3: next", "active: all_other_users", "day-3: next", "to-day-14: next"),
            "day-14: next",
        ],
        ["Welcome", "Need a hand?", "Two weeks"],
    ),
    "j05-ab-holdout": ("u5", [], [], []),
    "j06-delivery": ("u1", [SHIPPED], ["wait: not_triggered", "sorry: next"], ["Late"]),
    "j06-delivery, delivered": (
        "u1",
        [SHIPPED, event("order_delivered", "2d", order_id="o-8"), event("order_delivered", "9d", order_id="o-7")],
        ["wait: delivered", "rate: next"],
        ["Order o-7"],
    ),
    "j08-price-drop": (
        "u1",
        [event("price_changed", new_price="80 EUR", old_price="100 EUR", sku="s-1", name="Shoes")],
        ["tell: next"],
        ["Price drop"],
    ),
    "j09-geo-language": ("u6", [], ["can: reachable", "where: france", "fr: accepted"], ["Salut"]),
    "j09-geo-language, old": ("u2", [], ["can: reachable", "where: france", "fr: not_accepted", "mark: next"], []),
    "j10-weekly-digest": ("u1", [], ["digest: next"], ["Your week"]),
}


async def test_ten_journeys_are_tried(shop: House, stage: Stage) -> None:
    """Each of the ten runs for one user as its document says, days pass in moments, the real stores are as before."""
    before = shop.stores.tables.versions(), list_pushes(shop.stores.ledger.database).total
    for name, (user, events, expected, titles) in WAYS.items():
        journey = name.split(",")[0]
        found = await rehearse(stage, shop.engine, journey, GivenUser(user=user), events)
        assert (found.admitted, found.reason) == (True, "end"), name
        if journey == "j05-ab-holdout":
            variant = found.steps[0].branch
            expected = ["test: holdout"] if variant == "holdout" else [f"test: {variant}", f"offer-{variant}: next"]
        assert way(found) == expected, name
        assert [push.title for push in found.pushes] == titles, name
    # Nobody's birthday is today for sure, so he is let in anyway.
    wish = await rehearse(stage, shop.engine, "j07-birthday", GivenUser(user="u2"), anyway=True)
    assert [push.title for push in wish.pushes] == ["Joyeux anniversaire"]
    assert {name.split(",")[0] for name in WAYS} | {"j07-birthday"} == set(NAMES)
    assert (shop.stores.tables.versions(), list_pushes(shop.stores.ledger.database).total) == before
    assert all(explain(shop.stores.ledger.database, name, "u1").runs == [] for name in NAMES)


async def test_the_clock_of_a_rehearsal(shop: House, stage: Stage) -> None:
    """Steps have the moments of the run's own clock: three days and eleven between the pushes."""
    found = await rehearse(stage, shop.engine, "j04-onboarding", GivenUser(user="u4"), [event("sign_up")])
    at = {step.element: step.at for step in found.steps}
    assert timedelta(days=3) <= at["to-day-3"] - at["day-0"] < timedelta(days=3, minutes=1)
    assert timedelta(days=11) <= at["to-day-14"] - at["day-3"] < timedelta(days=11, minutes=1)
    assert found.left_at is not None
    assert found.left_at - at["day-14"] < timedelta(minutes=1)


async def test_who_does_not_enter(shop: House, stage: Stage) -> None:
    """Whoever is not in the audience, or whose event is not meant, does not come in, and the reason is told."""
    out = await rehearse(stage, shop.engine, "j02-win-back", GivenUser(user="u3"))
    assert (out.admitted, out.reason, out.steps) == (False, "not-in-audience", [])
    anyway = await rehearse(stage, shop.engine, "j02-win-back", GivenUser(user="u3"), anyway=True)
    assert way(anyway) == ["loyal: all_other_users"]
    cheap = event("cart_updated", total="19.99 EUR")
    assert (await rehearse(stage, shop.engine, "j03-cart", GivenUser(user="u1"), [cheap])).reason == "trigger-not-true"
    with pytest.raises(RefusedError, match="entered by the event 'cart_updated'"):
        await rehearse(stage, shop.engine, "j03-cart", GivenUser(user="u1"))
    with pytest.raises(NotFoundError, match="no user 'nobody'"):
        await rehearse(stage, shop.engine, "j02-win-back", GivenUser(user="nobody"))


async def test_what_a_webhook_would_post(shop: House, stage: Stage) -> None:
    """Webhooks and pushes to any provider reach nobody; what they would have sent is told, and updates stay aside."""
    shop.save("""\
        journey: outward
        entries: {start: {kind: api-entry, next: tell}}
        elements:
          tell:
            kind: webhook
            url: https://hooks.example.com/in
            data: {plan: "{{ user.plan }}", order: "{{ entry.order }}"}
            branches: {accepted: mark, not_accepted: done}
          mark: {kind: update-user, set: {plan: gold}, next: which}
          which:
            kind: condition-split
            match: {attribute: plan, is: gold}
            branches: {users_in_segment: hi, all_other_users: done}
          hi: {kind: push, message: {title: "{{ user.plan }} {{ entry.order }}", body: b}, next: done}
          done: {kind: exit}
        """)
    made_up = GivenUser(
        user="new",
        attributes={"plan": "free", "age": "20"},
        devices=[{"platform": "ios", "provider": "fcm", "token": "t"}, {"platform": "web", "opt_in": "false"}],
    )
    found = await rehearse(stage, shop.engine, "outward", made_up, values={"order": 7})
    assert found.steps[0].posted == {
        "url": "https://hooks.example.com/in",
        "data": {"plan": "free", "order": "7", "journey": "outward", "element": "tell", "user_id": "new"},
    }
    assert [(push.title, push.provider, push.device_id) for push in found.pushes] == [("gold 7", "fcm", "device-1")]
    with pytest.raises(RefusedError, match="'old' cannot be read as the type of 'age'"):
        await rehearse(stage, shop.engine, "outward", GivenUser(user="new", attributes={"age": "old"}))


CASES = """\
journey: j03-cart
cases:
  buys nothing:
    user: u1
    events: [{event: cart_updated, properties: {total: 30 EUR, cart_id: c-1}}]
    expect:
      path: [{wait: not_triggered}, nudge]
      exit: done
      pushes: [{element: nudge, device_id: d1, title: Your basket, body: 30 EUR is waiting}]
  buys in time:
    attributes: {plan: free}
    devices: [{platform: ios, token: t}]
    history: [{event: purchase, ago: 3d, cart_id: c-0}]
    events:
      - {event: cart_updated, properties: {total: 30 EUR, cart_id: c-1}}
      - {event: purchase, after: 59m, properties: {cart_id: c-1}}
    expect: {path: [wait: bought], pushes: []}
  a cheap cart:
    user: u1
    events: [{event: cart_updated, properties: {total: 5 EUR}}]
    expect: {enters: false, reason: trigger-not-true}
"""


@pytest.fixture
def line(tmp_path: Path) -> Commands:
    found = Commands(tmp_path)
    with Engine.open(found.settings) as engine:
        house = House(found.settings, engine.stores, "", "")
        load_shop(house)
        engine.save(write_examples(tmp_path / "documents"))
    return found


def test_cases_of_a_file(line: Commands) -> None:
    """`journeys test` rehearses each case; all as expected is status 0, any difference is 1 and told line by line."""
    line.write("cases.yaml", CASES)
    found = line("test", "cases.yaml", "--json")
    assert found.status == 0, found
    assert [(one["case"], one["ok"]) for one in found.json["cases"]] == [
        ("buys nothing", True),
        ("buys in time", True),
        ("a cheap cart", True),
    ]
    wrong = CASES.replace("title: Your basket", "title: Basket").replace("path: [wait: bought]", "path: [wait, nudge]")
    line.write("wrong.yaml", wrong.replace("enters: false, ", ""))
    failed = line("test", "wrong.yaml")
    assert failed.status == 1
    for words in (
        "pushes[0].title: expected 'Basket'; it was 'Your basket'",
        "path: expected wait, nudge; it was wait: bought",
        "enters: expected true, and the user did not come in: trigger-not-true",
        "3 cases, 3 failed",
    ):
        assert words in failed.out
    assert line("test", "cases.yaml", "--case", "a cheap cart", "--json").json["ok"] is True


def test_a_file_of_cases_is_checked(line: Commands) -> None:
    """Typos in a file of cases are faults with their places; nothing is rehearsed."""
    line.write("typo.yaml", CASES.replace("expect:\n", "expects:\n", 1).replace("after: 59m", "after: 59 minutes"))
    errors = line("test", "typo.yaml", "--json").errors
    assert {("cases.buys nothing.expects", 6), ("cases.buys in time.events[1].after", 16)} <= {
        (one["path"], one["line"]) for one in errors
    }
    assert line("test", "cases.yaml", "--json").codes == ["usage"]
    line.write("cases.yaml", CASES)
    assert line("test", "cases.yaml", "--case", "none", "--json").codes == ["no-case"]


def test_try_a_file(line: Commands) -> None:
    """`journeys try FILE` rehearses what was never saved, and prints steps and rendered pushes; nothing is saved."""
    line.write(
        "new.yaml",
        """\
        journey: new
        entries: {start: {kind: audience-entry, audience: {file: documents/vip.csv, column: client}, next: wait}}
        elements:
          wait:
            kind: wait-for-trigger
            up_to: 2d
            branches: {back: {trigger: {event: session}, next: hi}, not_triggered: done}
          hi: {kind: push, message: {title: "Hi {{ user.first_name }}", body: "{{ waited.wait.page }}"}, next: done}
          done: {kind: exit}
        """,
    )
    before = line.kept()
    shown = line("try", "new.yaml", "--user", "u1", "--event", 'session@1d={"page": "home"}')
    assert shown.status == 0, shown
    assert "to d1 by outbox: Hi Anna / home" in shown.out
    assert "left at done" in shown.out
    found = line("try", "new.yaml", "--user", "u1", "--json").json
    assert [(step["element"], step["branch"]) for step in found["steps"]] == [("wait", "not_triggered")]
    assert line("try", "new.yaml", "--user", "u4").out.startswith("u4 does not enter new by start: not-in-audience")
    assert line.kept() == before


@pytest.mark.parametrize("text", ["=x", "name={", "name@soon", "name=[1]", "@2h"])
def test_events_that_cannot_be_read(text: str) -> None:
    """An event of the command line that is no name, duration or JSON object is refused with what to write."""
    with pytest.raises(RefusedError, match="--event"):
        read_event(text)
    assert read_event('a@2h={"n": 1}') == GivenEvent(event="a", after="2h", properties={"n": 1})
