"""What is done: entry, condition split, push, and the tables and records behind them."""
