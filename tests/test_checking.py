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
