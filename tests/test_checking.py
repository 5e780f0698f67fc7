"""Checking tells everything at once: what is wrong with a document's form hides nothing of its sense."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.documents.checking import check_documents
from activities.documents.reading import read_text
from tests.house import House

DOCUMENT = """\
journey: broken
titel: no such key
entries:
  start: {kind: audience-entry, audience: {attribute: pln, is: paid}, next: split}
elements:
  split:
    kind: condition-split
    match: {attribute: plan, iss: paid}
    branches: {users_in_segment: promo, all_other_users: dome}
  promo:
    kind: push
    purpose: advertising
    message: {title: "Hi {{ user.nickname }}", body: b, colour: red}
    next: done
  lost: {kind: exit}
  done: {kind: exit}
"""


def faults_in(house: House, text: str) -> set[tuple[str, str]]:
    checked = check_documents(house.stores, read_text(text, "broken.yaml"), datetime.now(UTC))
    assert all(fault.line for fault in checked.faults)
    assert len(checked.faults) == len({(fault.code, fault.path) for fault in checked.faults}), "each is told once"
    return {(fault.code, fault.path) for fault in checked.faults}


def test_form_and_sense_are_told_together(house: House) -> None:
    """Wrong keys, values and operators stand beside unknown attributes, missing targets and unreachable elements."""
    sense = {
        ("unknown-attribute", "entries.start.audience.attribute"),
        ("missing-target", "elements.split.branches.all_other_users"),
        ("unreachable", "elements.lost"),
        ("unknown-attribute", "elements.promo.message.title"),
    }
    form = {
        ("unknown-key", "elements.split.match.iss"),
        ("wrong-value", "elements.promo.purpose"),
        ("unknown-key", "elements.promo.message.colour"),
    }
    assert faults_in(house, DOCUMENT) == sense | form | {("unknown-key", "titel")}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("lost: {kind: exit}", "lost: {kind: nothing}"), ("  done: {kind: exit}", "  done: exit")],
)
def test_what_cannot_be_left_out_hides_the_sense(house: House, wrong: str, right: str) -> None:
    """An element that cannot be read at all is the only fault told of the graph: no branch is said to lead nowhere."""
    found = faults_in(house, DOCUMENT.replace("titel: no such key\n", "").replace(wrong, right))
    assert not {code for code, _ in found} & {"missing-target", "unreachable"}


GOOD = """\
journey: good
goals: {won: {trigger: {event: purchase, where: {property: amount, at_least: 20 EUR}}}}
exit_when: {not: {not: {attribute: country, is: SE}}}
entries:
  start:
    kind: audience-entry
    audience:
      all:
        - {attribute: plan, in: [paid]}
        - any:
          - {attribute: age, at_least: 18, less_than: 65}
          - not: {attribute: first_name, is: {attribute: user_id}}
        - {device: platform, is: ios}
        - any_device: {any: [{attribute: opt_in, is: true}, {not: {attribute: token, is_set: true}}]}
        - event: session
          count: {at_most: 7}
          where: {all: [{property: page, contains: a}, {any: [{property: category, is: b}]}]}
        - {event: purchase, sum: {property: amount, more_than: 3 EUR}, within_last: 90d}
        - {segment: known}
        - {file: ids.csv, column: client}
    next: promo
elements:
  promo:
    kind: push
    devices: {all: [{attribute: language, is: fr}, {attribute: provider, is_set: true}]}
    message: {title: a, body: b}
    next: done
  done: {kind: exit}
---
segment: known
match: {everyone: true}
"""

AUDIENCE = "entries.start.audience"
TYPOS = {
    "plan, in": ("pln, in", f"unknown-attribute {AUDIENCE}.all[0].attribute"),
    "in: [paid]": ("inn: [paid]", f"unknown-key {AUDIENCE}.all[0].inn"),
    "attribute: age": ("attribute: agee", f"unknown-attribute {AUDIENCE}.all[1].any[0].attribute"),
    "at_least: 18": ("at_lest: 18", f"unknown-key {AUDIENCE}.all[1].any[0].at_lest"),
    "less_than: 65": ("less_than: old", f"unreadable-value {AUDIENCE}.all[1].any[0].less_than"),
    "first_name": ("firstname", f"unknown-attribute {AUDIENCE}.all[1].any[1].not.attribute"),
    "attribute: user_id": ("attribute: userid", f"unknown-attribute {AUDIENCE}.all[1].any[1].not.is.attribute"),
    "platform": ("platfrm", f"unknown-device-attribute {AUDIENCE}.all[2].device"),
    "is: ios": ("iis: ios", f"unknown-key {AUDIENCE}.all[2].iis"),
    "opt_in": ("opt_inn", f"unknown-device-attribute {AUDIENCE}.all[3].any_device.any[0].attribute"),
    "is: true": ("si: true", f"unknown-key {AUDIENCE}.all[3].any_device.any[0].si"),
    "token": ("tokn", f"unknown-device-attribute {AUDIENCE}.all[3].any_device.any[1].not.attribute"),
    "count: {at_most": ("count: {at_mostt", f"unknown-key {AUDIENCE}.all[4].count.at_mostt"),
    "page": ("pge", f"unknown-property {AUDIENCE}.all[4].where.all[0].property"),
    "contains": ("contain", f"unknown-key {AUDIENCE}.all[4].where.all[0].contain"),
    "property: category": ("property: catgory", f"unknown-property {AUDIENCE}.all[4].where.all[1].any[0].property"),
    "is: b}": ("has: b}", f"wrong-type {AUDIENCE}.all[4].where.all[1].any[0].has"),
    "sum: {property: amount": ("sum: {property: amunt", f"unknown-property {AUDIENCE}.all[5].sum.property"),
    "more_than: 3 EUR": ("more_then: 3 EUR", f"unknown-key {AUDIENCE}.all[5].sum.more_then"),
    "90d": ("90 days", f"duration {AUDIENCE}.all[5].within_last"),
    "{segment: known": ("{segment: knwon", f"unknown-segment {AUDIENCE}.all[6].segment"),
    "column: client": ("column: klient", f"unknown-column {AUDIENCE}.all[7].column"),
    "country": ("contry", "unknown-attribute exit_when.not.not.attribute"),
    "is: SE": ("iss: SE", "unknown-key exit_when.not.not.iss"),
    "at_least: 20 EUR": ("at_least: 20", "unreadable-value goals.won.trigger.where.at_least"),
    "where: {property: amount": (
        "where: {colour: red, property: amount", "unknown-key goals.won.trigger.where.colour"
    ),
    "attribute: language": ("attribute: lang", "unknown-device-attribute elements.promo.devices.all[0].attribute"),
    "is: fr": ("iz: fr", "unknown-key elements.promo.devices.all[0].iz"),
    "attribute: provider": ("attribute: povider", "unknown-device-attribute elements.promo.devices.all[1].attribute"),
    "message: {": ("message: {colour: red, ", "unknown-key elements.promo.message.colour"),
}  # fmt: skip
"""Each place of the good document that one typo can be put into, and the one fault that it is."""


TYPED_BY = {"less_than: 65": "attribute: age", "is: b}": "property: category"}
"""Typos that nobody can tell where the name is misspelt whose type they do not fit."""


@pytest.fixture
def shop(house: House) -> House:
    """A house with all that the good document names."""
    house.load("users", "user_id,first_name,plan,age,country\nu1,Anna,paid,30,FR\n")
    house.load("devices", "device_id,user_id,platform,language,token,opt_in,provider\nd1,u1,ios,fr,t1,true,apns\n")
    house.load("events", "user_id,event,at,amount,page,category\nu1,session,2027-01-01T00:00:00Z,1 EUR,a,b\n")
    (house.settings.home / "ids.csv").write_text("client,since\nu1,2020\n")
    return house


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.sets(st.sampled_from(sorted(TYPOS)), max_size=8))
def test_as_many_faults_as_typos(shop: House, chosen: set[str]) -> None:
    """However many typos a good document is given, each is told once, and nothing else: two are two, not forty."""
    chosen -= {typo for typo, name in TYPED_BY.items() if name in chosen}
    text = GOOD
    for right in chosen:
        assert text.count(right) == 1, right
        text = text.replace(right, TYPOS[right][0])
    raws = read_text(text, "good.yaml", folder=shop.settings.home)
    faults = check_documents(shop.stores, raws, datetime.now(UTC), rejects_dir=shop.settings.rejects).faults
    assert sorted(f"{fault.code} {fault.path}" for fault in faults) == sorted(TYPOS[right][1] for right in chosen)


def test_conditions_are_checked_where_the_graph_cannot_be(shop: House) -> None:
    """An element of no known kind hides what leads to it, and no name of a condition; all is told in its order."""
    text = GOOD.replace("kind: exit", "kind: exitt").replace("pln, in", "").replace("plan, in", "pln, inn")
    faults = check_documents(shop.stores, read_text(text, "good.yaml"), datetime.now(UTC)).faults
    assert [f"{fault.code} {fault.path}" for fault in faults] == [
        f"unknown-attribute {AUDIENCE}.all[0].attribute",
        f"unknown-key {AUDIENCE}.all[0].inn",
        "unknown-kind elements.done.kind",
    ]


TRIGGERED = """\
journey: triggered
reentry: {key: entry.order}
goals: {won: {trigger: {event: purchase, where: {property: amount, contains: x}}}}
entries:
  audience: {kind: audience-entry, audience: {attribute: plan, is: paid}, next: wait}
  start: {kind: trigger-entry, trigger: {event: purchas, where: {property: amount, at_least: 20}}, next: wait}
elements:
  wait:
    kind: wait-for-trigger
    up_to: 1d
    branches:
      a: {all: [{event: session, where: {property: page, is: {entry: page}}}, {event: session}], next: done}
      b: {trigger: {event: push_opened, where: {property: element, is: promo}}, next: done}
      c: {in_segment: {segment: nowhere}, next: done}
      not_triggered: done
  done: {kind: exit}
"""


def test_triggers_are_checked(house: House) -> None:
    """Wrong types and a key without an event are faults; events and properties that nobody had yet are warnings."""
    house.load("events", "user_id,event,at,amount\nu1,purchase,2027-01-01T00:00:00Z,19.99 EUR\n")
    checked = check_documents(house.stores, read_text(TRIGGERED, "triggered.yaml"), datetime.now(UTC))
    assert {(fault.code, fault.path) for fault in checked.faults} == {
        ("keyed-audience", "entries.audience"),
        ("unreadable-value", "entries.start.trigger.where.at_least"),
        ("wrong-type", "goals.won.trigger.where.contains"),
        ("unknown-segment", "elements.wait.branches.c.in_segment.segment"),
    }
    warned = {(warning.code, warning.path, warning.line): warning.hint for warning in checked.warnings}
    assert warned == {
        ("unknown-event", "entries.start.trigger.event", 6): "did you mean `purchase`?",
        ("unknown-event", "elements.wait.branches.a.all[0].event", 12): "",
        ("unknown-event", "elements.wait.branches.a.all[1].event", 12): "",
        ("unknown-property", "elements.wait.branches.a.all[0].where.property", 12): "",
    }
