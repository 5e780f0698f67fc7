"""Opening the stores: the one place where settings become databases, tables and caches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from activities.meters import Meters
from activities.push.claims import Claims
from activities.push.profiles import Profiles
from activities.push.rates import Rates
from activities.records.catalogue import Catalogue
from activities.records.database import Database
from activities.records.gate import Gate
from activities.records.ledger import Ledger
from activities.records.pseudonyms import Pseudonyms
from activities.records.winners import Winners
from activities.segments.memberships import Memberships
from activities.segments.segments import Segments
from activities.segments.standings import Standings
from activities.stores import Stores
from activities.tables.delta import Tables
from activities.tables.kept_columns import KeptColumns
from workers.settings import Settings


@contextmanager
def open_stores(settings: Settings, meters: Meters | None = None) -> Iterator[Stores]:
    """Open tables, catalogue and ledger, and close them at the end.

    Args:
        settings: Where they are.
        meters: Counts what they do; null for nothing.

    Yields:
        The stores. Missing ones are created empty.

    Raises:
        StoreUnavailable: One cannot be reached.
    """
    database = Database(settings.database_url, meters)
    try:
        database.create()
        tables = Tables(settings.tables_root, settings.storage_options)
        catalogue = Catalogue(database)
        columns = KeptColumns(tables, settings.column_megabytes << 20)
        segments = Segments(tables, catalogue, settings.timezone, meters, columns)
        key = settings.id_key
        ledger = Ledger(database, Pseudonyms(database, key.get_secret_value().encode() if key is not None else None))
        claims = Claims(ledger)
        yield Stores(
            tables=tables,
            catalogue=catalogue,
            ledger=ledger,
            segments=segments,
            memberships=Memberships(segments, settings.freshness, settings.membership_megabytes << 20),
            standings=Standings(segments),
            profiles=Profiles(tables, settings.push_provider, claims, settings.profile_megabytes << 20),
            claims=claims,
            rates=Rates(database),
            gate=Gate(database),
            winners=Winners(database),
            snapshots=settings.snapshots,
            rejects=settings.rejects,
        )
    finally:
        database.close()
