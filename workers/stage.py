"""The stage of rehearsals: a Temporal server that skips time, in a folder that is thrown away, and dry providers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from temporalio.client import Client
from yarl import URL

from activities.elements.webhook import Outside
from activities.push.delivery import DeliveryRules
from activities.push.devices import OUTBOX
from activities.push.provider import Answer, Notification, Target, Verdict
from activities.stores import Stores
from workers.embedded import run_embedded_server
from workers.opening import open_stores
from workers.plugin import JourneysPlugin
from workers.providers import delivery_rules
from workers.serving import run_workers
from workers.settings import Settings

TIME_SKIPPING = ("--headless", "--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true")
"""Options of the `temporal` program: no UI, and each workflow's clock may be moved on by itself."""

SAID = "nothing was sent: it is a rehearsal"


class DryProvider:
    """Takes every push and sends none.

    Args:
        name: The provider that it stands for.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def payload(self, notification: Notification, target: Target) -> Mapping[str, Any]:
        """Give nothing: no body is made."""
        return {}

    async def send(self, notification: Notification, target: Target) -> Answer:
        """Accept a push."""
        return Answer(Verdict.ACCEPTED, SAID)

    async def close(self) -> None:
        """Hold nothing."""


class DryOutside(Outside):
    """Keeps what webhooks would have posted, and posts nothing."""

    def __init__(self) -> None:
        self.posted: dict[str, tuple[str, dict[str, Any]]] = {}

    async def leads_outside(self, host: str) -> bool:
        """Let every host be: none is reached."""
        return True

    async def post(self, url: URL, payload: Mapping[str, Any], *, key: str) -> Answer:
        """Keep an object, by the element that posts it."""
        self.posted[str(payload["element"])] = str(url), dict(payload)
        return Answer(Verdict.ACCEPTED, SAID)

    async def close(self) -> None:
        """Hold nothing."""


@dataclass
class Scene:
    """One rehearsal's own stores, with workers on them.

    Attributes:
        stores: Fresh stores.
        client: Reaches the stage's server; what it starts keeps real time until it is moved on.
        outside: What webhooks would have posted.
    """

    stores: Stores
    client: Client
    outside: DryOutside


class Stage:
    """A running server for rehearsals.

    Args:
        settings: The real settings: zone, caps, providers.
        folder: Where everything is kept; thrown away at the end.
        address: Host and port of the server.
    """

    def __init__(self, settings: Settings, folder: Path, address: str) -> None:
        self._settings = settings
        self._folder = folder
        self._address = address
        self._scenes = 0

    @asynccontextmanager
    async def scene(self, providers: set[str]) -> AsyncIterator[Scene]:
        """Open fresh stores and run workers on them while the body runs.

        Args:
            providers: The providers that devices name.

        Yields:
            The scene.
        """
        self._scenes += 1
        settings = scratch_settings(self._settings, self._folder / f"scene-{self._scenes}")
        settings.home.mkdir()
        names = {*providers, settings.push_provider} - {OUTBOX}
        # Nothing is sent, so there is no minute to keep off.
        real = delivery_rules(settings)
        rules = DeliveryRules(cap=real.cap, patience=real.patience, control_percent=real.control_percent)
        with open_stores(settings) as stores:
            outside = DryOutside()
            plugin = JourneysPlugin(
                stores,
                sandbox=False,
                providers={name: DryProvider(name) for name in names},
                rules=rules,
                outside=outside,
            )
            client = await Client.connect(self._address, plugins=[plugin])
            async with AsyncExitStack() as stack:
                for role in ("users", "push"):
                    await stack.enter_async_context(run_workers(client, settings, role))
                yield Scene(stores, client, outside)


@asynccontextmanager
async def open_stage(settings: Settings) -> AsyncIterator[Stage]:
    """Run a server that skips time, in a folder that is thrown away.

    Args:
        settings: The real settings.

    Yields:
        The stage.

    Raises:
        NoServer: The server did not start.
    """
    with TemporaryDirectory(prefix="journeys-") as folder:
        home = Path(folder)
        async with run_embedded_server(scratch_settings(settings, home), port=0, options=TIME_SKIPPING) as server:
            yield Stage(settings, home, server.address)


def scratch_settings(settings: Settings, home: Path) -> Settings:
    """Give settings that name nothing real: every store in one folder, no keys; each answer as of its moment."""
    nothing = dict.fromkeys(("database", "tables", "table_options", "payload_keys", "id_key"))
    return settings.model_copy(
        update={**nothing, "home": home, "freshness_seconds": 0.0, "drain_seconds": 1.0, "pollers": 2}
    )
