"""How a person uses it: the command line, the demo."""
