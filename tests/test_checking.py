"""Checking tells everything at once: what is wrong with a document's form hides nothing of its sense."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

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
