"""Pseudonyms: what stands for a user's id in workflow ids and search attributes, which no codec hides.

A pseudonym is an HMAC-SHA256 (RFC 2104) of the id with the setting JOURNEYS_ID_KEY, cut to its first 128 bits (RFC
2104, section 5, allows half) and written in base32. Temporal is given nothing that leads back; the ledger is.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable

from sqlalchemy import Column, Connection, String, Table, Text, delete, select

from activities.records.database import METADATA, Database
from workflows.contracts import user_workflow_id

PSEUDONYM_BYTES = 16

pseudonyms = Table(
    "pseudonyms",
    METADATA,
    Column("pseudonym", String(32), primary_key=True),
    Column("user_id", Text, nullable=False, index=True),
)


class Pseudonyms:
    """Names users towards Temporal: by pseudonym where there is a key, else by their own ids.

    Args:
        database: Where the ledger keeps which user a pseudonym stands for.
        key: The secret; null for none.
    """

    def __init__(self, database: Database, key: bytes | None = None) -> None:
        self._database = database
        self._key = key

    @property
    def secret(self) -> bool:
        """Whether ids are hidden."""
        return self._key is not None

    def name(self, user_id: str) -> str:
        """Give what stands for a user: 26 lower-case letters and digits, or the id itself without a key."""
        return self._hidden("user", user_id)

    def workflow_id(self, journey: str, user_id: str, key: str = "") -> str:
        """Give the workflow id of one user's run, as `user_workflow_id` lays it out.

        Args:
            journey: The journey's name.
            user_id: The user.
            key: The key of keyed runs: it is hidden too, and differently for each user.

        Raises:
            RefusedError: The id would be longer than Temporal takes.
        """
        return user_workflow_id(journey, self.name(user_id), self._hidden("key", user_id, key) if key else "")

    def remember(self, connection: Connection, users: Iterable[str]) -> None:
        """Write down which users pseudonyms stand for, within a transaction that is open; nothing without a key."""
        rows = [{"pseudonym": self.name(user), "user_id": user} for user in users] if self.secret else []
        if rows:
            connection.execute(self._database.insert(pseudonyms).on_conflict_do_nothing(), rows)

    def users(self, names: Iterable[str]) -> dict[str, str]:
        """Find the users that some names stand for. Blocking.

        Args:
            names: Pseudonyms or ids, as workflow ids and search attributes have them; some hundreds at most.

        Returns:
            Name to user id. A name that the ledger does not know is taken for an id: runs that began before there was
            a key have it.

        Raises:
            StoreUnavailable: The ledger cannot be read.
        """
        wanted = list(names)
        if not self.secret:
            return {name: name for name in wanted}
        query = select(pseudonyms).where(pseudonyms.c.pseudonym.in_(wanted))
        known = {row.pseudonym: row.user_id for row in self._database.read(lambda c: c.execute(query).all())}
        return {name: known.get(name, name) for name in wanted}

    def forget(self, connection: Connection, user_id: str) -> int:
        """Erase what leads back to a user, within a transaction that is open; gives the number of rows."""
        return connection.execute(delete(pseudonyms).where(pseudonyms.c.user_id == user_id)).rowcount

    def _hidden(self, *words: str) -> str:
        if self._key is None:
            return words[-1]
        # What the words are is part of them, and each is told from the next: no two meanings share a message.
        digest = hmac.digest(self._key, "\0".join(words).encode(), "sha256")[:PSEUDONYM_BYTES]
        return base64.b32encode(digest).decode().rstrip("=").lower()
