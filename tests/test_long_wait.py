"""The long wait: everybody is held for thirty days, everything is killed meanwhile, and all of them go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
USERS, LONGEST_SECONDS = (10_000, 1_700) if IN_CI else (1_000, 400)
"""Ten thousand take five minutes of a machine that does nothing else, which nobody waits for at his desk."""


@pytest.mark.storm
@pytest.mark.timeout(LONGEST_SECONDS + 60)
def test_a_long_wait_loses_nobody() -> None:
    """Ten thousand users (at a desk a tenth) wait thirty days, all is killed: each leaves once, at no cost."""
    words = [sys.executable, "-m", "scripts.long_wait", "--users", str(USERS), "--json"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        try:
            out, err = waiting.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            waiting.terminate()  # it stops what it has started
            pytest.fail(f"after {LONGEST_SECONDS} s it is at: {waiting.communicate()[1]}")
    said = json.loads(out)
    assert (waiting.returncode, said["losses"], said["ok"]) == (0, [], True), err
    found = said["found"]
    assert (found["entered"], found["left"]) == (USERS, {"end": USERS})
    assert found["days"] >= 30
    # The script holds that none has grown from then on; before, a task that a busy machine timed out adds three.
    assert found["events_of_a_waiting_run"]["8"] > 0.5 * USERS
    assert found["starts"] == {"server": 2, "worker-1": 2}, "both were killed, and started again"


def test_a_long_wait_keeps_off_real_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a setting names somebody's real parts, nothing is started, and the setting is named."""
    monkeypatch.setenv("JOURNEYS_DATABASE", "sqlite:////nowhere/ledger.db")
    words = [sys.executable, "-m", "scripts.long_wait", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "JOURNEYS_DATABASE" in json.loads(done.stdout)["errors"][0]["message"]
