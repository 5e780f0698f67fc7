"""Addresses that a provider called dead move into the table of devices, and a device that is seen again lives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from activities.push.claims import dead_addresses
from activities.tables.delta import Tables
from activities.upkeep import tidy_tables
from tests.house import House
from workflows.errors import ImportRefused
from workflows.upkeep import UpkeepInput

DEVICES = """\
device_id,user_id,platform,provider,token,last_seen,opt_in
p1,u1,ios,apns,aa,2026-03-01T10:00:00Z,true
p2,u2,ios,apns,bb,2026-03-01T10:00:00Z,true
p3,u3,ios,apns,cc,,true
p4,u4,android,,dd,,true
"""
"""Four devices more; the last one's provider is the default, the outbox."""


def call_dead(house: House, device: str, token: str, since: str, provider: str = "apns") -> None:
    """Write an address down as `settle` does when a provider calls it dead."""
    row = {"device_id": device, "provider": provider, "token": token, "since": since, "detail": "410 Unregistered"}
    house.stores.ledger.database.write_now(lambda connection: connection.execute(dead_addresses.insert(), row))


def reached(house: House) -> set[str]:
    """Give the reachable devices of ours, asked for a whole table and for single users, which must agree."""
    stores, users = house.stores, [f"u{number}" for number in range(1, 7)]
    whole = stores.tables.collect(stores.profiles.reachable(stores.tables.scan("devices")))["device_id"].to_list()
    profiles = stores.profiles.read(users, None, "UTC", datetime.now(UTC)).values()
    assert sorted(whole) == sorted(str(device["device_id"]) for profile in profiles for device in profile.devices)
    return {device for device in whole if device.startswith("p")}


def test_dead_addresses_move_into_the_table(house: House) -> None:
    """Dead in the ledger, then in the table, then in the table alone: the same devices are reachable all the time."""
    house.load("devices", DEVICES)
    assert reached(house) == {"p1", "p2", "p3", "p4"}
    call_dead(house, "p1", "aa", "2026-03-01T12:00:00.000000Z")
    call_dead(house, "p2", "bb", "2026-03-01T09:00:00.000000Z")  # seen since
    call_dead(house, "p3", "former", "2026-03-01T12:00:00.000000Z")  # another address by now
    call_dead(house, "p4", "dd", "2026-03-01T12:00:00.000000Z")  # at another provider
    call_dead(house, "p9", "xx", "2026-03-01T12:00:00.000000Z")  # nobody knows it
    assert reached(house) == {"p2", "p3", "p4"}
    assert tidy_tables(house.stores, UpkeepInput(dry_run=True)).dead_devices == 1
    assert "dead_since" not in house.stores.tables.schema("devices")
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 1
    stored = house.stores.tables.collect(
        house.stores.tables.scan("devices").filter(pl.col("dead_address").is_not_null())
    )
    assert stored.select("device_id", "token", "dead_address", "dead_since").rows() == [
        ("p1", "aa", "apns:aa", datetime(2026, 3, 1, 12, tzinfo=UTC))
    ]
    assert [one[0] for one in house.stores.claims.all_dead()] == ["p1"], "who reads the version before finds it"
    assert reached(house) == {"p2", "p3", "p4"}
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 0
    assert house.stores.claims.all_dead() == []
    assert reached(house) == {"p2", "p3", "p4"}
    version = house.stores.tables.version("devices")
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 0
    assert house.stores.tables.version("devices") == version, "nothing to write, no commit"


def test_registering_again_revives_a_dead_device(house: House) -> None:
    """The same file again leaves it dead; seen after the provider's instant, or another address, revives it."""
    house.load("devices", DEVICES)
    for device, token in (("p1", "aa"), ("p2", "bb"), ("p3", "cc")):
        call_dead(house, device, token, "2026-03-01T12:00:00.000000Z")
    for _ in range(2):
        tidy_tables(house.stores, UpkeepInput())
    assert house.stores.claims.all_dead() == []
    house.load("devices", DEVICES)
    assert reached(house) == {"p4"}
    house.load("devices", "device_id,user_id,platform,last_seen\np1,u1,ios,2026-03-01T11:59:59Z\n")
    assert reached(house) == {"p4"}
    house.load("devices", "device_id,user_id,platform,last_seen\np1,u1,ios,2026-03-01T12:00:01Z\n")
    assert reached(house) == {"p1", "p4"}
    house.load("devices", "device_id,user_id,platform,token\np2,u2,ios,new\n")
    assert reached(house) == {"p1", "p2", "p4"}
    house.load("devices", "device_id,user_id,platform,provider\np3,u3,ios,fcm\n")
    assert reached(house) == {"p1", "p2", "p3", "p4"}, "what one provider refuses says nothing of another"
    call_dead(house, "p1", "aa", "2026-03-02T12:00:00.000000Z")
    assert reached(house) == {"p2", "p3", "p4"}
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 1
    tidy_tables(house.stores, UpkeepInput())
    assert reached(house) == {"p2", "p3", "p4"}, "dead again, later"
    with pytest.raises(ImportRefused, match="'dead_since' is kept by the engine"):
        house.load("devices", "device_id,user_id,platform,dead_since\np1,u1,ios,\n")


def test_an_import_in_between_is_not_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marking starts again when an import commits first: the revived device stays alive, and no import is undone."""
    house.load("devices", DEVICES)
    call_dead(house, "p1", "aa", "2026-03-01T12:00:00.000000Z")
    call_dead(house, "p3", "cc", "2026-03-01T12:00:00.000000Z")
    tables, merge = house.stores.tables, Tables._merge

    def late(self: Tables, *args: Any, **kwargs: Any) -> None:
        if self is tables:
            monkeypatch.setattr(Tables, "_merge", merge)
            other = Tables(tables.root)
            row = {"device_id": "p1", "last_seen": datetime(2026, 3, 1, 13, tzinfo=UTC)}
            schema = {"device_id": pl.String, "last_seen": pl.Datetime("us", "UTC")}
            other.upsert("devices", pl.DataFrame([row], schema=schema), "device_id")
        merge(self, *args, **kwargs)

    monkeypatch.setattr(Tables, "_merge", late)
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 1
    assert reached(house) == {"p1", "p2", "p4"}
    tidy_tables(house.stores, UpkeepInput())
    assert (reached(house), house.stores.claims.all_dead()) == ({"p1", "p2", "p4"}, [])
