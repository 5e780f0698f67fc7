"""What is done: entry, condition split, push, and the tables and records behind them."""

import os

# Polars' allocator keeps what was freed for a second and a half, longer than most imports last. Given back after a
# tenth of a second, an import of 100 MB peaks 40 to 60 MB lower and takes as long, and so do segments (polars 2.1.0,
# which adds what it finds here to its own when it is first imported). Whoever set the variable is obeyed.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:100,muzzy_decay_ms:0")
