"""Records histories of the sample journey on the embedded server, for the replay test.

Run it as `python -m scripts.record_histories`.
Record anew after a change of the engine's number only: histories of an older engine stay, since runs of it may be under
way wherever the product is deployed.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from temporalio.client import Client

from activities.records.catalogue import Saved
from activities.records.reports import explain
from activities.tables.imports import ImportedTable, import_table
from scripts.sample import write_documents, write_sample
from workers.embedded import run_embedded_server
from workers.engine import Engine
from workers.plugin import JourneysPlugin
from workers.serving import run_workers
from workers.settings import Settings
from workflows.contracts import (
    ENGINE,
    USERS_QUEUE,
    UserJourneyInput,
    journey_workflow_id,
    user_workflow_id,
)
from workflows.documents import ALL_OTHER_USERS, USERS_IN_SEGMENT

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "histories"
SAMPLE_USERS = 60
TABLES: tuple[ImportedTable, ...] = ("users", "devices", "events")


async def record(folder: Path) -> list[Path]:
    """Run the sample journey and write one history of each kind.

    Args:
        folder: Where to; made if missing.

    Returns:
        The files: a user who was pushed, one who was not, one who was refused, and the journey.

    Raises:
        NoServer: The embedded server did not start.
    """
    with tempfile.TemporaryDirectory() as place:
        settings = Settings(home=Path(place))
        with Engine.open(settings) as engine:
            for table, path in zip(TABLES, write_sample(settings.home, SAMPLE_USERS), strict=False):
                import_table(engine.stores.tables, table, path, rejects_dir=settings.rejects, now=datetime.now(UTC))
            engine.save(write_documents(settings.home, vip_in_place=True))
            async with run_embedded_server(settings) as server:
                # A name of its own keeps the machine's out of the files.
                plugin = JourneysPlugin(engine.stores)
                client = await Client.connect(server.address, plugins=[plugin], identity="recorder")
                async with run_workers(client, settings):
                    return await _run_and_write(engine, client, folder)


async def _run_and_write(engine: Engine, client: Client, folder: Path) -> list[Path]:
    report = await engine.start("hello", client=client)
    await engine.result(report, client=client)
    saved = engine.stores.catalogue.find("journey", "hello")
    refused = user_workflow_id("hello", "nobody")
    await client.execute_workflow(
        "UserJourney", UserJourneyInput(journey="hello", user_id="nobody"), id=refused, task_queue=USERS_QUEUE
    )
    ids = {
        "pushed-user": user_workflow_id("hello", _user_who(engine, saved, USERS_IN_SEGMENT)),
        "other-user": user_workflow_id("hello", _user_who(engine, saved, ALL_OTHER_USERS)),
        "refused-user": refused,
        "journey": journey_workflow_id("hello"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, workflow_id in ids.items():
        history = await client.get_workflow_handle(workflow_id).fetch_history()
        paths.append(folder / f"{name}.engine-{ENGINE}.json")
        paths[-1].write_text(history.to_json() + "\n", encoding="utf-8")
    return paths


def _user_who(engine: Engine, saved: Saved, branch: str) -> str:
    """Find a user who took a branch of the sample's split, and was pushed where that is its way."""
    for number in range(SAMPLE_USERS):
        user = f"u{number:06d}"
        for run in explain(engine.stores.ledger.database, saved.name, user).runs:
            steps = {step.branch: step.outcome for step in run.steps}
            if branch in steps and (branch == ALL_OTHER_USERS or "accepted" in steps.values()):
                return user
    raise LookupError(f"no user of the sample takes {branch!r}")


def main() -> None:
    """Record into the folder given, or where the replay test looks."""
    for path in asyncio.run(record(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)):
        print(path)


if __name__ == "__main__":
    main()
