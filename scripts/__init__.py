"""How a person uses it: the command line, the demo."""

import activities  # noqa: F401  it says how polars shall use memory, which has to be said before polars is imported
