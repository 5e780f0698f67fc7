"""How it runs: settings, the Temporal plugin, serving, and the four verbs for Python callers."""

from workers.engine import Engine
from workers.plugin import JourneysPlugin
from workers.settings import Settings, load_settings

__all__ = ["Engine", "JourneysPlugin", "Settings", "load_settings"]
