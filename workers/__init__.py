"""How it runs: settings, the Temporal plugin, serving."""
