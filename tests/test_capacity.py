"""The arithmetic of capacity holds by hand, and grows in proportion."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from scripts.capacity import Cost, capacity, needed

COST = Cost(worker_ms=10, server_ms=20, stored_kb=20, waiting_kb=30, ledger_kb=1, actions_pushed=3, actions_other=2)


def test_the_arithmetic_by_hand() -> None:
    """36,000 users in an hour, half of them pushed, with 1,000 waiting, on half-used cores."""
    found = needed(36_000, 3_600, pushed=0.5, waiting=1_000, busy=0.5, cost=COST)
    assert found.users_per_second == 10
    assert (found.worker_cores, found.server_cores) == (1, 1)
    assert found.server_gb == pytest.approx(0.75)
    assert found.ledger_gb == pytest.approx(0.037)
    assert (found.actions, found.actions_per_second) == (90_000, 25)


def test_a_thousand_times_the_users_need_a_thousand_times_as_much() -> None:
    """Every need is in proportion to the users; cores are whole, and never fewer than the load needs."""
    small, large = (needed(n, 86_400, pushed=0.3, waiting=0, busy=0.6, cost=COST) for n in (100_000, 100_000_000))
    assert large.server_gb == pytest.approx(1_000 * small.server_gb)
    assert large.actions_per_second == pytest.approx(1_000 * small.actions_per_second)
    assert large.worker_cores * 0.6 >= large.users_per_second * COST.worker_ms / 1_000
    assert (large.worker_cores - 1) * 0.6 < large.users_per_second * COST.worker_ms / 1_000


def test_the_script_prints_up_to_a_hundred_million(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a number of users the table ends at 100 million; --json has the costs that it came from."""
    lines = CliRunner().invoke(capacity, []).output.splitlines()
    assert lines[-1].split()[0] == "100,000,000"
    monkeypatch.setattr("sys.argv", ["capacity", "--json"])
    found = json.loads(CliRunner().invoke(capacity, ["--users", "1000", "--json"]).output)
    assert found["cost"]["worker_ms"] == Cost().worker_ms
    assert [need["users"] for need in found["needs"]] == [1_000]
