"""The benchmark of pushes runs: every provider and its bare client deliver, and the last line is one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_provider_and_its_bare_client_deliver() -> None:
    """With few messages each side of each provider sends all of them, and its figures are told in JSON."""
    words = [sys.executable, "-m", "scripts.bench_push", "--messages", "20", "--rounds", "1", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["providers"]) == {"fcm", "apns", "webpush", "webhook"}
    for one in found["providers"].values():
        assert one["ours"]["cpu_ms"] > 0 < one["bare"]["per_second"]
        assert one["to_bare"] > 0 < one["to_best"]
