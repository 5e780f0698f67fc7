"""Kinds of columns: which is recognised, what each reads, and that it reads what it writes."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.tables.inference import PLAIN_INSTANT, as_text, infer, read_as
from activities.tables.schema import DTYPES, KINDS, Kind, version_order


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-20", ""], "integer"),
        (["0", "1"], "integer"),
        (["075", "1"], "string"),
        (["1234567890123456", "1"], "string"),
        (["+33612345678"], "string"),
        (["1.5", "2", "1e3"], "number"),
        (["1,5"], "string"),
        (["nan"], "string"),
        (["Yes", "no", "1"], "boolean"),
        (["TRUE", "false"], "boolean"),
        (["2026-02-28"], "date"),
        (["2026-02-30"], "string"),
        (["0000-01-01"], "string"),
        (["0001-01-01", "9999-12-31"], "date"),
        (["0001-01-01T00:00:00+01:00"], "string"),
        (["9999-12-31T23:00:00-05:00"], "string"),
        (["2026-02-28", "2026-02-28T10:00:00+02:00"], "instant"),
        (["2026-02-28 10:00"], "instant"),
        (["19.99 EUR", "-5 USD"], "price"),
        (["19.99 eur"], "string"),
        (["1.2.3", "1.10"], "version"),
        (["1.2", "1.10"], "number"),
        (["1.2.3.4.5"], "string"),
        (['["a", "b"]', "[]"], "list"),
        (["[a]"], "string"),
        (["a|b"], "string"),
        (["", " "], None),
    ],
)
def test_kinds_are_recognised(cells: list[str], kind: Kind | None) -> None:
    """Each kind is recognised when all values have its form, and nothing is taken for a number that is more."""
    assert infer(pl.Series("x", cells)) == kind


def test_instants_in_all_their_forms() -> None:
    """Offsets are applied, no zone is UTC, fractions are kept to the microsecond, nonsense is nothing."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    forms = {
        "2026-03-01T12:00": noon,
        "2026-03-01 12:00:00": noon,
        "2026-03-01T12:00:00Z": noon,
        "2026-03-01 12:00:00 UTC": noon,
        "2026-03-01T14:00:00+02:00": noon,
        "2026-03-01T06:30:00-0530": noon,
        "2026-03-01T12:00:00.1234567Z": noon.replace(microsecond=123456),
        "2026-03-01": noon.replace(hour=0),
        "2026-03-01T24:00": None,
        "2026-03-01T12:00+99:00": None,
        "1740830400": None,
    }
    assert read_as(pl.Series("at", list(forms)), "instant").to_list() == list(forms.values())


@given(st.lists(st.from_regex(PLAIN_INSTANT, fullmatch=True, alphabet=st.characters(codec="ascii")), min_size=1))
def test_the_plainest_instants_are_read_as_all_others(texts: list[str]) -> None:
    """What is read at once is what is read part by part: a fraction of nothing, or a zone of zero, changes nothing."""
    read = read_as(pl.Series("at", texts), "instant")
    for other in (".0Z", "+00:00"):
        assert read_as(pl.Series("at", [text[:-1] + other for text in texts]), "instant").equals(read, null_equal=True)
    assert read_as(pl.Series("at", [*texts, "2026-03-01 12:00"]), "instant")[:-1].equals(read, null_equal=True)


def test_instants_have_a_local_time_in_every_zone() -> None:
    """Plain or not, an instant is taken within a day of the years 1 to 9999, where each zone has a time for it."""
    last = "9999-12-30T23:59:59"
    taken = ["0001-01-02T00:00:00Z", f"{last}Z", f"{last}.999999Z", "0001-01-01T20:00:00-04:00"]
    beyond = [
        "0001-01-01T23:59:59Z",
        "9999-12-31T00:00:00Z",
        "0001-01-01T23:59:59.5Z",
        "0001-01-01",
        "0000-06-01T00:00Z",
    ]
    read = read_as(pl.Series("at", taken + beyond), "instant")
    assert read.is_null().to_list() == [False] * len(taken) + [True] * len(beyond)
    for moment in read.drop_nulls():
        for zone in ("Asia/Manila", "America/Metlakatla", "Pacific/Kiritimati", "Etc/GMT+12"):
            assert moment.astimezone(ZoneInfo(zone)).astimezone(UTC) == moment


def test_lists_hold_strings() -> None:
    """Numbers and booleans in a list become their text, null is left out, nested lists do not read."""
    cells = ['["a", 1, 1.50, true, null]', "[]", '[["a"]]', '{"a": 1}', None]
    assert read_as(pl.Series(cells), "list").to_list() == [["a", "1", "1.50", "true"], [], None, None, None]


@pytest.mark.parametrize("odd", ["[NaN]", "[Infinity]", '["\\ud800"]', "[" * 100_000, "[1"])
def test_what_looks_like_a_list_and_is_none_is_text(odd: str) -> None:
    """A cell far down that is no JSON array of scalars makes the column text, whatever it is."""
    column = pl.Series("tags", ["[1]"] * 300 + [odd])
    assert infer(column) == "string"
    assert read_as(column, "list").to_list() == [["1"]] * 300 + [None]


@given(st.text("0123456789.x", max_size=9))
def test_versions_are_numbered_as_the_schema_says(text: str) -> None:
    """Columns of versions get the very order that single versions get."""
    (read,) = read_as(pl.Series([text]), "version").to_list()
    order = version_order(text) if text else None
    assert (read and read["order"]) == order


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_what_it_writes(kind: Kind) -> None:
    """Text of each kind reads as the same values, in the kind's dtype, for columns of nothing too."""
    samples = [
        "7",
        "-1.5",
        "x y",
        "true",
        "2026-03-01",
        "2026-03-01T12:00:00.5Z",
        "5.5 EUR",
        "1.10.2",
        '["é"]',
        "",
        None,
    ]
    column = read_as(pl.Series("x", samples, dtype=pl.String), kind)
    assert column.dtype == DTYPES[kind]
    assert column.name == "x"
    assert read_as(as_text(column), kind).equals(column, null_equal=True)
    assert read_as(pl.Series("x", [], dtype=pl.String), kind).dtype == DTYPES[kind]
