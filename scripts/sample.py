"""Sample audiences: the same users, devices and events for the same seed, with the gaps that real tables have."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from workflows.errors import RefusedError

FIRST_NAMES = ("Anna", "Björn", "Chloé", "Dmitri", "Élodie", "Fatima", "Gustav", "Hana", "Inès", "José", "Koffi", "Lea")
PLANS = ("free", "trial", "paid", "paid", "paid", "pro", "pro", "")
COUNTRIES = ("FR", "FR", "BE", "NO", "SE", "DE", "JP", "")
LANGUAGES = ("fr", "fr-CA", "no", "en", "de", "")
CATEGORIES = ("shoes", "coats", "gift-card", "hats")

SEGMENTS = """\
# yaml-language-server: $schema=.journeys/schema/segment.json
segment: active-payers
title: "Paying customers who bought in the last 90 days"
match:
  all:
    - {attribute: plan, in: [paid, pro]}
    - {event: purchase, within_last: 90d}
"""

JOURNEY = """\
# yaml-language-server: $schema=.journeys/schema/journey.json
journey: hello
title: "Thank our best customers"
entries:
  start:
    kind: audience-entry
    audience: {segment: active-payers}            # a segment that exists: see segments.yaml
    next: vip
elements:
  vip:
    kind: condition-split
    match: %(vip)s
    branches:
      users_in_segment: thanks                    # "Users in a segment"
      all_other_users: done                       # "All other users"
  thanks:
    kind: push
    message:
      title: "Merci {{ user.first_name | default: 'à vous' }}"
      body: "-20 %% jusqu'à dimanche"
      link: "myapp://offers/20"
      languages:
        en: {title: "Thank you", body: "20%% off until Sunday"}
        no: {title: "Takk", body: "20 %% til søndag"}
    next: done
  done: {kind: exit}
"""

REMINDER = """\
# yaml-language-server: $schema=.journeys/schema/journey.json
journey: reminder
title: "Remind those who do not buy again"
entries:
  start: {kind: audience-entry, audience: {segment: active-payers}, next: reach}
  named: {kind: api-entry, next: reach}           # whom `journeys enter` names
elements:
  reach:
    kind: reachability-check                      # has the user a device that can receive a push?
    branches: {reachable: wait, not_reachable: done}
  wait:
    kind: wait-for-trigger
    up_to: 3d
    branches:
      bought: {trigger: {event: purchase}, next: moment}
      not_triggered: remind                       # three days are over
  moment: {kind: time-delay, duration: 10s, next: thanks}
  thanks:
    kind: push
    purpose: transactional
    message: {title: "Thank you", body: "It is on its way"}
    next: done
  remind:
    kind: push
    message: {title: "Still thinking about it?", body: "-20 % until Sunday"}
    next: done
  done: {kind: exit}
"""

IN_PLACE = "{file: vip.csv, column: client}       # an imported file, imported when this is saved"
IMPORTED = "{segment: vip}                        # an imported segment"


def write_sample(folder: Path, users: int, *, seed: int = 7, now: datetime | None = None) -> list[Path]:
    """Write users.csv, devices.csv, events.csv and vip.csv.

    Args:
        folder: Where to.
        users: How many users.
        seed: The same seed gives the same sample, apart from its dates.
        now: The instant that dates are counted back from; null for now.

    Returns:
        The four files.
    """
    chance = random.Random(seed)  # noqa: S311  a sample has no secrets
    today = (now or datetime.now(UTC)).replace(microsecond=0)
    people, devices, events, vip = [], [], [], []
    for number in range(users):
        user = f"u{number:06d}"
        people.append(
            (
                user,
                chance.choice((*FIRST_NAMES, "")),
                chance.choice(PLANS),
                chance.choice(COUNTRIES),
                chance.choice(("", *range(16, 80))),
                chance.choice(("", date(1990, 1, 1) + timedelta(days=chance.randrange(9_000)))),
                f"{chance.randrange(1, 96):03d}00",
            )
        )
        for place in range(chance.choice((0, 1, 1, 1, 2, 3))):
            seen = today - timedelta(hours=chance.randrange(1, 2_000))
            devices.append(
                (
                    f"{user}-d{place}",
                    user,
                    chance.choice(("ios", "android", "web")),
                    f"token-{number}-{place}",
                    chance.choice(LANGUAGES),
                    f"{chance.choice((2, 3))}.{chance.choice((1, 9, 10, 11))}.0",
                    chance.choice(("true", "true", "true", "false", "")),
                    seen.isoformat(),
                )
            )
        for place in range(chance.choice((0, 1, 2, 3, 4))):
            at = today - timedelta(days=chance.randrange(2, 150), minutes=chance.randrange(60))
            # No event lies within a day of 90 days ago, so that a sample counts the same a few minutes later.
            at -= timedelta(days=3) if 88 <= (today - at).days <= 91 else timedelta()
            price = f"{chance.randrange(500, 20_000) / 100:.2f} EUR"
            name = chance.choice(("purchase", "purchase", "purchase", "session"))
            events.append((f"{user}-e{place}", user, name, at.isoformat(), price, chance.choice(CATEGORIES)))
        if chance.random() < 0.3:
            vip.append((user, chance.choice(("2024", "2025", "2026"))))
    vip += [(f"gone-{number}", "2019") for number in range(3)] + vip[:2]
    return [
        _write(folder / "users.csv", ("user_id", "first_name", "plan", "country", "age", "birth_date", "zip"), people),
        _write(
            folder / "devices.csv",
            ("device_id", "user_id", "platform", "token", "language", "app_version", "opt_in", "last_seen"),
            devices,
        ),
        _write(folder / "events.csv", ("event_id", "user_id", "event", "at", "amount", "category"), events),
        _write(folder / "vip.csv", ("client", "since"), vip),
    ]


def write_documents(folder: Path, *, vip_in_place: bool) -> list[Path]:
    """Write a segment and a journey that use the sample.

    Args:
        folder: Where to.
        vip_in_place: Whether the journey names the file vip.csv, or a segment `vip` that was imported.

    Returns:
        The two files.
    """
    segments, journey = folder / "segments.yaml", folder / "hello.yaml"
    segments.write_text(SEGMENTS, encoding="utf-8")
    journey.write_text(JOURNEY % {"vip": IN_PLACE if vip_in_place else IMPORTED}, encoding="utf-8")
    return [segments, journey]


def write_first_project(folder: Path) -> list[Path]:
    """Write what a newcomer starts from: three documents and a sample of 500 users.

    Args:
        folder: Where to; made if missing.

    Returns:
        The files.

    Raises:
        RefusedError: One of the files is there already; nothing was written.
    """
    names = ("segments.yaml", "hello.yaml", "reminder.yaml", "users.csv", "devices.csv", "events.csv", "vip.csv")
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise RefusedError(
            f"{str(folder)!r} holds {', '.join(there)} already: nothing was written",
            code="files-exist",
            hint="give a new folder: journeys new my-journeys",
        )
    folder.mkdir(parents=True, exist_ok=True)
    reminder = folder / "reminder.yaml"
    reminder.write_text(REMINDER, encoding="utf-8")
    return [*write_documents(folder, vip_in_place=True), reminder, *write_sample(folder, 500)]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path
