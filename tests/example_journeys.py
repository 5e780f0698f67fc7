"""The ten example journeys, with the tables, the file and the segments that they need."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from tests.house import House
from tests.win_back import SEGMENTS

JOURNEYS = Path(__file__).parent / "examples" / "journeys.yaml"

NAMES = (
    "j01-vip-hello",
    "j02-win-back",
    "j03-cart",
    "j04-onboarding",
    "j05-ab-holdout",
    "j06-delivery",
    "j07-birthday",
    "j08-price-drop",
    "j09-geo-language",
    "j10-weekly-digest",
)

MORE_SEGMENTS = """\
---
segment: churned
match: {event: unsubscribe, within_last: 365d}
---
segment: digest
match: {attribute: digest_count, at_least: 1}
"""

DEVICES = """\
device_id,user_id,platform,token,language,opt_in,app_version,timezone
d1,u1,ios,t1,fr,true,3.10,Europe/Paris
d2,u2,android,t2,fr-CA,true,3.9,America/Montreal
d3,u3,web,t3,en,false,,
d4,u4,android,t4,no,true,2.0.1,Europe/Oslo
d6,u6,android,t6,,true,3.12,Asia/Tokyo
"""

VIP = "client\nu1\nu2\nu6\nnobody\n"


def load_shop(house: House) -> None:
    """Import the users, devices and events of an ordinary shop."""
    now = datetime.now(UTC)

    def ago(days: float) -> str:
        return (now - timedelta(days=days)).isoformat()

    born = date(1990, 6, 15).isoformat()
    house.load(
        "users",
        "user_id,first_name,plan,age,country,birth_date,digest_count\n"
        f"u1,Anna,paid,30,FR,{born},3\nu2,,pro,41,FR,1985-01-02,\nu3,Chloé,free,22,BE,,1\n"
        "u4,Dmitri,paid,17,NO,,2\nu5,Élodie,,65,SE,,\nu6,Fatima,pro,33,FR,2000-02-29,0\n",
    )
    house.load("devices", DEVICES)
    rows = [
        ("purchase", "u1", 3, "30 EUR"),
        ("purchase", "u1", 80, "20 EUR"),
        ("purchase", "u2", 1, "12 EUR"),
        ("purchase", "u2", 2, "12 EUR"),
        ("purchase", "u4", 100, "99 EUR"),
        ("purchase", "u5", 200, "5 EUR"),
        ("unsubscribe", "u5", 10, ""),
        ("session", "u1", 1, ""),
    ]
    lines = ["event_id,user_id,event,at,total,cart_id,order_id,sku,name,new_price,old_price"]
    lines += [f"e{n},{user},{event},{ago(days)},{total},,,,,," for n, (event, user, days, total) in enumerate(rows)]
    lines.append(f"e90,u1,order_shipped,{ago(20)},,,o-1,,,,")
    lines.append(f"e91,u1,cart_updated,{ago(3)},30 EUR,c-1,,,,,")
    lines.append(f"e92,u1,price_changed,{ago(9)},,,,s-1,Shoes,80 EUR,100 EUR")
    house.load("events", "\n".join(lines) + "\n")


def write_examples(folder: Path) -> list[Path]:
    """Write the journeys as the examples have them, with the segments and vip.csv beside."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "journeys.yaml": JOURNEYS.read_text(encoding="utf-8"),
        "segments.yaml": SEGMENTS + MORE_SEGMENTS,
        "vip.csv": VIP,
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / "segments.yaml", folder / "journeys.yaml"]
