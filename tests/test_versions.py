"""Two versions side by side, who would go another way, and copies under new names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Commands
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS


@pytest.fixture
def line(tmp_path: Path) -> Commands:
    found = Commands(tmp_path / "folder")
    found.write("users.csv", USERS)
    found.write("devices.csv", DEVICES)
    found.write("documents.yaml", SAMPLE_DOCUMENTS)
    assert found("import", "users", "users.csv").status == 0
    assert found("import", "devices", "devices.csv").status == 0
    assert found("save", "documents.yaml").status == 0
    return found


SECOND = (
    SAMPLE_DOCUMENTS.split("---\n")[2]
    .replace("match: {segment: grown}", "match: {attribute: age, at_least: 31}")
    .replace("audience: {segment: paying}", "audience: {attribute: plan, in: [paid, free]}")
    .replace('body: "-20 %"', "body: Less")
    .replace(
        "next: done\n",
        "next: ask\n  ask: {kind: reachability-check, branches: {reachable: done, not_reachable: done}}\n",
    )
)


def test_a_diff_counts_who_would_go_another_way(line: Commands) -> None:
    """Two plans over one snapshot, joined user by user: entries, branches, and elements of one version only."""
    line.write("second.yaml", SECOND)
    before = line.kept()
    found = line("diff", "hello", "second.yaml", "--ids", "--json").json
    assert line.kept() == before
    assert [(one["path"], one["before"], one["after"]) for one in found["changes"]] == [
        ("entries.start.audience", {"segment": "paying"}, {"attribute": "plan", "in": ["paid", "free"]}),
        ("elements.loyal.match", {"segment": "grown"}, {"attribute": "age", "at_least": "31"}),
        ("elements.promo.message.body", "-20 %", "Less"),
        ("elements.promo.next", "done", "ask"),
        (
            "elements.ask",
            None,
            {"kind": "reachability-check", "branches": {"reachable": "done", "not_reachable": "done"}},
        ),
    ]
    # u1 30, u2 41, u3 22, u4 17, u6 33; paid: u1, u4; pro: u2, u6; free: u3.
    assert [(one["before"], one["after"], one["user_ids"]) for one in found["entering"]] == [
        ("entered", None, ["u2", "u6"]),
        (None, "entered", ["u3"]),
    ]
    loyal, ask = found["splits"]
    assert (loyal["element"], loyal["other_branch"]) == ("loyal", 1)
    assert (loyal["before"], loyal["after"]) == (
        {"users_in_segment": 3, "all_other_users": 1},
        {"users_in_segment": 0, "all_other_users": 3},
    )
    assert [(one["before"], one["after"], one["user_ids"]) for one in loyal["changed"]] == [
        ("users_in_segment", "all_other_users", ["u1"]),
        ("users_in_segment", None, ["u2", "u6"]),
        (None, "all_other_users", ["u3"]),
    ]
    assert (ask["element"], ask["before"], ask["after"]) == ("ask", {}, {"reachable": 0, "not_reachable": 0})
    shown = line("diff", "hello", "second.yaml").out
    assert "elements.promo.message.body" in shown
    assert "Users in a segment" in shown


def test_saved_versions_and_equal_ones(line: Commands) -> None:
    """Saved versions are named NAME@N; two that say the same differ nowhere; the order of branches is a difference."""
    line.write("second.yaml", SECOND)
    assert line("save", "second.yaml").status == 0
    same = line("diff", "hello@2", "second.yaml", "--json").json
    assert (same["changes"], same["entering"], [one["changed"] for one in same["splits"]]) == ([], [], [[], []])
    assert line("diff", "hello@1", "hello@2", "--json").json["splits"][0]["changed"][0]["user_ids"] is None
    by = (
        "journey: {}\nentries: {{start: {{kind: audience-entry, audience: {{everyone: true}}, next: by}}}}\nelements:\n"
    )
    by += "  by: {{kind: condition-split, by: {{attribute: age}}, branches: {{{}, {}, all_other_users: done}}}}\n"
    by += "  done: {{kind: exit}}\n"
    young, all_ = "young: {at_most: 30, next: done}", "any: {is_set: true, next: done}"
    line.write("a.yaml", by.format("a", young, all_))
    line.write("b.yaml", by.format("a", all_, young))
    found = line("diff", "a.yaml", "b.yaml", "--json").json
    assert [(one["path"], one["before"]) for one in found["changes"]] == [
        ("elements.by.branches", ["all_other_users", "young", "any"])
    ]
    assert [(one["before"], one["after"], one["users"]) for one in found["splits"][0]["changed"]] == [
        ("young", "any", 3)
    ]


def test_what_cannot_be_compared(line: Commands) -> None:
    """An unknown version is refused, and a file with faults tells them all."""
    assert line("diff", "hello", "hello@7", "--json").codes == ["not-found"]
    line.write("broken.yaml", SECOND.replace("at_least: 31", "at_leest: 31").replace("next: ask\n", "next: asc\n"))
    assert len(line("diff", "hello", "broken.yaml", "--json").errors) >= 2


def test_a_clone_begins_anew(line: Commands) -> None:
    """A clone is a journey of its own at version 1, which says the same; a taken name and a bad one are refused."""
    saved = line("clone", "hello@1", "hello-2", "--json").json
    assert (saved["name"], saved["version"], saved["changed"]) == ("hello-2", 1, True)
    assert [one["path"] for one in line("diff", "hello", "hello-2", "--json").json["changes"]] == ["journey"]
    before = line.kept()
    assert line("clone", "hello", "hello-2", "--json").codes == ["name-taken"]
    assert line("clone", "hello", "Hello 3", "--json").codes == ["usage"]
    assert line("clone", "nobody", "hello-3", "--json").codes == ["not-found"]
    assert line.kept() == before


def test_a_plan_for_people(line: Commands) -> None:
    """The plan tells people what is not known, who leaves where, and the pushes by the hour."""
    line.write(
        "later.yaml",
        """\
        journey: later
        exit_when: {attribute: country, is: BE}
        entries: {start: {kind: audience-entry, audience: {everyone: true}, next: one}}
        elements:
          one: {kind: push, message: {title: Hi, body: b}, next: two}
          two:
            kind: wait-for-trigger
            up_to: 1h
            branches: {came: {trigger: {event: x}, next: three}, not_triggered: done}
          three: {kind: push, message: {title: Hi, body: b}, next: done}
          done: {kind: exit}
        """,
    )
    shown = line("plan", "later.yaml").out
    for words in ("exit-criteria 1", "up to 5 more may arrive", "what users do is not known before", "fullest minute"):
        assert words in shown
