"""How it runs: settings, the Temporal plugin, serving, and the four verbs for Python callers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import activities  # noqa: F401  it says how polars shall use memory, which has to be said before polars is imported

if TYPE_CHECKING:
    from workers.engine import Engine
    from workers.plugin import JourneysPlugin
    from workers.settings import Settings, load_settings

__all__ = ["Engine", "JourneysPlugin", "Settings", "load_settings"]

_HOLDERS = {"Engine": "engine", "JourneysPlugin": "plugin", "Settings": "settings", "load_settings": "settings"}


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is: the settings are light, and the engine brings polars, SQL and Temporal."""
    if name not in _HOLDERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOLDERS[name]}"), name)
