"""The first two examples of the project's journeys, with the files, tables and segments that they need."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.house import SHARED, VIP, House

SEGMENTS = """\
segment: paying-customers
match: {attribute: plan, in: [paid, pro]}
---
segment: loyal-customers
timezone: Europe/Paris
match:
  all:
    - {attribute: age, at_least: 18, less_than: 65}
    - {event: purchase, count: {at_least: 2}, within_last: 90d}
"""

LOYAL = ("u1", "u2")
"""The users of the house who bought twice lately, by the events below."""


def write_examples(folder: Path) -> list[Path]:
    """Write j01-vip-hello and j02-win-back as the examples have them, with vip.csv and the segments beside."""
    documents = (SHARED / "examples" / "journeys.yaml").read_text(encoding="utf-8").split("\n---\n")
    files = {
        "segments.yaml": SEGMENTS,
        "j01.yaml": documents[0],
        "j02.yaml": documents[1],
        "vip.csv": VIP,
    }
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in ("segments.yaml", "j01.yaml", "j02.yaml")]


def load_purchases(house: House) -> None:
    """Import two purchases of each loyal user, and one or old ones of others."""
    now = datetime.now(UTC)
    rows = ["event_id,user_id,event,at"]
    for user, days in (("u1", (3, 80)), ("u2", (1, 2)), ("u4", (1, 2)), ("u6", (5, 200))):
        rows += [f"{user}-{day},{user},purchase,{(now - timedelta(days=day)).isoformat()}" for day in days]
    house.load("events", "\n".join(rows) + "\n")
