"""What polars does by itself, for `scripts.bench_imports`: `python -m scripts.bare_polars read FILE`, or `match`.

A program of its own, since the product tells polars how to use memory, which makes reading a file slower.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl


def peak_megabytes() -> float:
    """Give the most memory that this process held so far; `getrusage` would tell the peak of whoever started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measured(began: float, before: float, answer: int) -> dict[str, Any]:
    """Say what a process measured: seconds since it began, and how far its memory rose above what it held before."""
    seconds = time.perf_counter() - began
    return {"answer": answer, "seconds": round(seconds, 3), "megabytes": round(peak_megabytes() - before)}


def read(file: Path) -> int:
    """Read a file into memory, types and dates recognised, and give its rows."""
    return pl.read_csv(file, try_parse_dates=True).height


def match(file: Path, table: Path) -> int:
    """Match a list of user ids with the users and write the members, as one would by hand, and give their number."""
    listed = pl.read_csv(file).unique("user_id", keep="first", maintain_order=True)
    known = pl.scan_delta(str(table)).select("user_id").collect()
    members = listed.join(known, on="user_id", how="semi")
    with tempfile.TemporaryDirectory() as scratch:
        members.select("user_id").write_parquet(Path(scratch) / "members.parquet")
    return members.height


def main() -> None:
    """Do what is asked once, and print what it took as JSON."""
    what, *paths = sys.argv[1:]
    before, began = peak_megabytes(), time.perf_counter()
    answer = read(Path(paths[0])) if what == "read" else match(Path(paths[0]), Path(paths[1]))
    print(json.dumps(measured(began, before, answer)))


if __name__ == "__main__":
    main()
