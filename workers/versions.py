"""Versions side by side, and copies of journeys under new names."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import ValidationError

from activities.documents.saving import SavedVersion
from activities.planning.comparing import Comparison, compare_versions
from workers.engine import Engine
from workers.providers import delivery_rules
from workflows.documents import JourneyDocument, definition_of
from workflows.errors import RefusedError


def compare(engine: Engine, before: str, after: str, *, ids: bool = False) -> Comparison:
    """Compare two versions over the newest snapshot. Sends nothing, writes nothing.

    Args:
        engine: The stores.
        before: A saved journey as `NAME` or `NAME@3`, or a file that holds one.
        after: Another.
        ids: Whether users are named.

    Returns:
        What they say differently, and how many users would take another branch.

    Raises:
        DefinitionError: A file has faults.
        NotFoundError: There is no such journey.
        StoreUnavailable: A store cannot be reached.
    """
    now = datetime.now(UTC)
    first, second = engine.meant(before, now), engine.meant(after, now)
    rules = delivery_rules(engine.settings)
    return compare_versions(engine.stores, (before, first), (after, second), rules, ids=ids)


def clone(engine: Engine, name: str, new: str) -> SavedVersion:
    """Save a journey's version under a new name, as its first version.

    Args:
        engine: The stores.
        name: A saved journey as `NAME` or `NAME@3`.
        new: The new name.

    Returns:
        The saved version.

    Raises:
        NotFoundError: There is no such journey.
        RefusedError: The new name is taken, or no name.
        StoreUnavailable: The catalogue cannot be reached.
    """
    found = engine.document(engine.find(name))
    if new in engine.stores.catalogue.names("journey"):
        raise RefusedError(
            f"there is a journey {new!r} already: nothing was saved",
            code="name-taken",
            hint="choose another name",
        )
    try:
        document = JourneyDocument.model_validate({**definition_of(found), "journey": new})
    except ValidationError:
        raise RefusedError(
            f"{new!r} is no name of a journey: write lower-case letters, digits and hyphens", code="usage"
        ) from None
    (saved,) = engine.stores.catalogue.save([], lambda _: [document], datetime.now(UTC))
    return SavedVersion(
        kind=saved.kind, name=saved.name, version=saved.version, digest=saved.digest, changed=saved.changed
    )
