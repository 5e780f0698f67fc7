"""What a storm does and when, and the journey that it does it to."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

JOURNEY = "storm"
STAYING = "linger"
"""Where users are still inside when all is calm, in the last version."""

SEGMENT = """\
segment: gold
match: {attribute: tier, is: gold}
"""

DOCUMENT = """\
journey: storm
title: "In a storm"
send_window: 25s
entries:
  start: {{kind: audience-entry, audience: {{attribute: plan, in: [paid, pro]}}, next: gold}}
  door: {{kind: api-entry, next: gold}}
elements:
  gold:
    kind: condition-split
    match: {{segment: gold}}
    branches: {{users_in_segment: hello, all_other_users: reach}}
  hello:
    kind: push
    message: {{title: "Hello {{{{ user.first_name }}}}", body: "version {version}"}}
    branches: {{accepted: pace, not_accepted: pace}}
  reach:
    kind: reachability-check
    branches: {{reachable: news, not_reachable: pace}}
  news: {{kind: push, message: {{title: News, body: "version {version}"}}, next: pace}}
  pace:
    kind: split-test
    branches: {{brief: {{share: 40, next: nap}}, long: {{share: 45, next: rest}}, still: {{share: 15, next: {stay}}}}}
  nap: {{kind: time-delay, duration: 4s, next: receipt}}
  rest: {{kind: time-delay, duration: {rest}, next: receipt}}
  {stay}: {{kind: time-delay, duration: {days}d, next: done}}
  receipt:
    kind: push
    purpose: transactional
    message: {{title: Receipt, body: "version {version}"}}
    next: later
  later:
    kind: condition-split
    match: {{attribute: tier, in: [gold, silver]}}
    branches: {{users_in_segment: again, all_other_users: done}}
  again: {{kind: push, message: {{title: Again, body: "version {version}"}}, next: done}}
  done: {{kind: exit}}
"""

VERSIONS = (
    {"version": 1, "rest": "20s", "stay": "stay", "days": 1},
    {"version": 2, "rest": "15s", "stay": "stay", "days": 1},
    {"version": 3, "rest": "15s", "stay": STAYING, "days": 2},
)
"""The second changes a delay in which users are, the third puts another element in the place of one."""

Kind = Literal[
    "kill_worker",
    "kill_workers",
    "kill_server",
    "kill_provider",
    "provider_throttles",
    "provider_breaks",
    "provider_hangs",
    "provider_cuts",
    "lock_ledger",
    "fill_disk",
    "lose_tables",
    "import_tables",
    "tidy_tables",
    "pause",
    "revise",
    "enter",
    "remove",
]

STROKES: dict[Kind, tuple[int, float, float]] = {
    "kill_worker": (3, 0.2, 3.0),
    "kill_workers": (1, 0.2, 2.0),
    "kill_server": (2, 0.5, 5.0),
    "kill_provider": (1, 0.5, 2.0),
    "provider_throttles": (1, 1.0, 3.0),
    "provider_breaks": (1, 1.0, 3.0),
    "provider_hangs": (1, 1.0, 3.0),
    "provider_cuts": (1, 1.0, 3.0),
    "lock_ledger": (2, 2.0, 5.0),
    "fill_disk": (1, 1.0, 4.0),
    "lose_tables": (1, 1.0, 3.0),
    "import_tables": (4, 0.0, 0.0),
    "tidy_tables": (1, 0.0, 0.0),
    "pause": (1, 1.0, 4.0),
    "revise": (2, 0.0, 0.0),
    "enter": (2, 0.0, 0.0),
    "remove": (2, 0.0, 0.0),
}
"""How often in a short storm, and how many seconds each lasts, from and to."""
ONCE: tuple[Kind, ...] = ("revise",)
"""What a long storm has no more of."""
EARLY: tuple[Kind, ...] = ("provider_throttles", "revise")
"""What comes in the first half: what it sets off takes a minute."""


@dataclass(frozen=True)
class Size:
    """How big a storm is.

    Attributes:
        users: Rows of the table of users.
        seconds: How long it lasts.
        times: How often it has what a short one has once.
    """

    users: int
    seconds: float
    times: int


SHORT = Size(users=300, seconds=60, times=1)
LONG = Size(users=3_000, seconds=300, times=5)


@dataclass(frozen=True)
class Stroke:
    """One thing that is done.

    Attributes:
        at: Seconds after the start.
        kind: What.
        seconds: How long it lasts.
        pick: Decides what is left to chance in it.
    """

    at: float
    kind: Kind
    seconds: float
    pick: int


def plan_storm(seed: int, size: Size) -> list[Stroke]:
    """Decide what is done and when: the same for the same seed and size.

    Args:
        seed: Decides.
        size: How long, and how much.

    Returns:
        The strokes in order; each kind occurs.
    """
    chance = random.Random(seed)  # noqa: S311  no secret
    strokes = []
    for kind, (times, least, most) in STROKES.items():
        for _ in range(times if kind in ONCE else times * size.times):
            last = size.seconds * (0.5 if kind in EARLY else 1.0)
            lasts = round(chance.uniform(least, most), 1)
            strokes.append(Stroke(round(chance.uniform(1, last), 1), kind, lasts, chance.randrange(1 << 32)))
    return sorted(strokes, key=lambda stroke: stroke.at)
