"""Every operator of the segment language selects the users it says, and nobody whose value is missing."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest

from activities.tables.schema import Kind
from tests.condition_tables import NOON, Tables, euros, instant
from workflows.errors import DefinitionError

STRINGS = ["paid", "Pro", "", "pay-as-you-go", None]
INTEGERS = [17, 18, 64, 65, -1, None]
PRICES = [euros("19.99"), euros("20"), euros("20", "USD"), euros("20.0001"), None]
VERSIONS = ["1.9.9", "1.10", "1.10.0", "3.1", None]
LISTS = [["running"], ["trail", "Running"], [], ["a", "b", "running"], None]
DATES = [date(2026, 3, 14), date(2026, 3, 15), date(2026, 3, 16), date(2024, 2, 29), None]
INSTANTS = [
    instant(text)
    for text in ("2026-03-14T23:59:59Z", "2026-03-15T00:00:00Z", "2026-03-15T12:00:00Z", "2026-03-16T00:00:00Z")
] + [None]

TABLE: list[tuple[Kind, list[Any], str, str]] = [
    ("string", STRINGS, "is: paid", "0"),
    ("string", STRINGS, "is: ''", "2"),
    ("string", STRINGS, "is_not: paid", "123"),
    ("string", STRINGS, "in: [paid, Pro, gone]", "01"),
    ("string", STRINGS, "not_in: [paid, Pro]", "23"),
    ("string", STRINGS, "is_set: true", "0123"),
    ("string", STRINGS, "is_not_set: true", "4"),
    ("string", STRINGS, "is: PRO, ignore_case: true", "1"),
    ("string", STRINGS, "is_not: PRO, ignore_case: true", "023"),
    ("string", STRINGS, "in: [PAID, pro], ignore_case: true", "01"),
    ("string", STRINGS, "not_in: [PAID, pro], ignore_case: true", "23"),
    ("string", STRINGS, "contains: a", "03"),
    ("string", STRINGS, "contains: A", ""),
    ("string", STRINGS, "contains: A, ignore_case: true", "03"),
    ("string", STRINGS, "contains: '.'", ""),
    ("string", STRINGS, "starts_with: pa", "03"),
    ("string", STRINGS, "starts_with: PR, ignore_case: true", "1"),
    ("string", STRINGS, "ends_with: o", "13"),
    ("string", STRINGS, "ends_with: ''", "0123"),
    ("string", STRINGS, "matches: '^pa.'", "03"),
    ("string", STRINGS, "matches: 'O$', ignore_case: true", "13"),
    ("integer", INTEGERS, "is: 18", "1"),
    ("integer", INTEGERS, "is_not: 18", "0234"),
    ("integer", INTEGERS, "in: [17, 65]", "03"),
    ("integer", INTEGERS, "not_in: [17, 65]", "124"),
    ("integer", INTEGERS, "at_least: 18, less_than: 65", "12"),
    ("integer", INTEGERS, "more_than: 18, at_most: 65", "23"),
    ("integer", INTEGERS, "at_most: 17", "04"),
    ("integer", INTEGERS, "between: [17, 64]", "012"),
    ("integer", INTEGERS, "is_not_set: true", "5"),
    ("number", [0.5, 1.0, -0.1, None], "at_least: 0.5", "01"),
    ("number", [0.5, 1.0, -0.1, None], "is: 1", "1"),
    ("number", [0.5, 1.0, -0.1, None], "is_not: 1", "02"),
    ("boolean", [True, False, None], "is: yes", "0"),
    ("boolean", [True, False, None], "is_not: true", "1"),
    ("boolean", [True, False, None], "in: [true, false]", "01"),
    ("boolean", [True, False, None], "not_in: [true]", "1"),
    ("price", PRICES, "is: 20 EUR", "1"),
    ("price", PRICES, "is_not: 20.00 EUR", "023"),
    ("price", PRICES, "in: [20 EUR, 20 USD]", "12"),
    ("price", PRICES, "not_in: [20 EUR, 19.99 EUR]", "23"),
    ("price", PRICES, "at_least: 20 EUR", "13"),
    ("price", PRICES, "less_than: 20 EUR", "0"),
    ("price", PRICES, "more_than: 1 USD", "2"),
    ("price", PRICES, "between: [19.99 EUR, 20 EUR]", "01"),
    ("price", PRICES, "is_set: true", "0123"),
    ("version", VERSIONS, "less_than: 1.10", "0"),
    ("version", VERSIONS, "is: 1.10", "12"),
    ("version", VERSIONS, "is_not: 1.10", "03"),
    ("version", VERSIONS, "in: [1.10.0, 3.1]", "123"),
    ("version", VERSIONS, "not_in: [1.10.0, 3.1]", "0"),
    ("version", VERSIONS, "at_least: 1.10, at_most: 3.0", "12"),
    ("version", VERSIONS, "between: [1.9, 2]", "012"),
    ("version", VERSIONS, "is_not_set: true", "4"),
    ("list", LISTS, "has: running", "03"),
    ("list", LISTS, "has: RUNNING, ignore_case: true", "013"),
    ("list", LISTS, "has_any: [trail, b]", "13"),
    ("list", LISTS, "has_all: [a, running]", "3"),
    ("list", LISTS, "has_all: [TRAIL, running], ignore_case: true", "1"),
    ("list", LISTS, "is_set: true", "0123"),
    ("list", LISTS, "is_not_set: true", "4"),
    ("date", DATES, "is: 2026-03-15", "1"),
    ("date", DATES, "is_not: 2026-03-15", "023"),
    ("date", DATES, "in: [2026-03-15, 2024-02-29]", "13"),
    ("date", DATES, "not_in: [2026-03-15, 2024-02-29]", "02"),
    ("date", DATES, "before: 2026-03-15", "03"),
    ("date", DATES, "after: 2026-03-15", "2"),
    ("date", DATES, "at_least: 2026-03-15", "12"),
    ("date", DATES, "at_most: 2026-03-15", "013"),
    ("date", DATES, "between: [2026-03-14, 2026-03-15]", "01"),
    ("date", DATES, "within_last: 1d", "01"),
    ("date", DATES, "within_last: 0d", "1"),
    ("date", DATES, "within_next: 1d", "12"),
    ("date", DATES, "older_than: 1d", "3"),
    ("date", DATES, "older_than: 1d, within_last: 52w", ""),
    ("date", DATES, "days_ago: {exactly: 1}", "0"),
    ("date", DATES, "days_ago: {at_most: 1}", "01"),
    ("date", DATES, "days_ago: {at_least: 1}", "03"),
    ("date", DATES, "days_ago: {between: [1, 900]}", "03"),
    ("date", DATES, "days_ahead: {exactly: 1}", "2"),
    ("date", DATES, "days_ahead: {at_least: 0}", "12"),
    ("date", DATES, "days_ahead: {at_most: 1000000000}", "12"),
    ("date", DATES, "anniversary: {exactly: 0}", "1"),
    ("date", DATES, "anniversary: {between: [1, 360]}", "23"),
    ("instant", INSTANTS, "is: 2026-03-15", "12"),
    ("instant", INSTANTS, "is_not: 2026-03-15", "03"),
    ("instant", INSTANTS, "is: 2026-03-15T13:00+01:00", "2"),
    ("instant", INSTANTS, "in: [2026-03-14, 2026-03-15T12:00]", "02"),
    ("instant", INSTANTS, "not_in: [2026-03-14, 2026-03-15T12:00]", "13"),
    ("instant", INSTANTS, "before: 2026-03-15", "0"),
    ("instant", INSTANTS, "before: 2026-03-15T12:00", "01"),
    ("instant", INSTANTS, "after: 2026-03-15", "3"),
    ("instant", INSTANTS, "after: 2026-03-15T12:00", "3"),
    ("instant", INSTANTS, "at_least: 2026-03-15, at_most: 2026-03-15", "12"),
    ("instant", INSTANTS, "more_than: 2026-03-14, less_than: 2026-03-16", "12"),
    ("instant", INSTANTS, "between: [2026-03-15, 2026-03-15T12:00]", "12"),
    ("instant", INSTANTS, "within_last: 12h", "12"),
    ("instant", INSTANTS, "within_last: 11h59m59s", "2"),
    ("instant", INSTANTS, "within_next: 12h", "23"),
    ("instant", INSTANTS, "older_than: 12h", "0"),
    ("instant", INSTANTS, "older_than: 0s, within_last: 12h", "1"),
    ("instant", INSTANTS, "days_ago: {exactly: 0}", "12"),
    ("instant", INSTANTS, "days_ago: {at_least: 1}", "0"),
    ("instant", INSTANTS, "days_ago: {at_most: 1}", "012"),
    ("instant", INSTANTS, "days_ahead: {at_least: 1}", "3"),
    ("instant", INSTANTS, "anniversary: {at_most: 1}", "123"),
]


@pytest.mark.parametrize(("kind", "values", "operators", "chosen"), TABLE, ids=lambda value: str(value)[:50])
def test_operator_and_its_complement(kind: Kind, values: list[Any], operators: str, chosen: str) -> None:
    """An operator selects the rows it says; under `not`, exactly the others."""
    tables = Tables({"users": {"x": kind}}, [{"user_id": str(place), "x": value} for place, value in enumerate(values)])
    assert "".join(tables.select(f"{{attribute: x, {operators}}}")) == chosen
    others = "".join(str(place) for place in range(len(values)) if str(place) not in chosen)
    assert "".join(tables.select(f"{{not: {{attribute: x, {operators}}}}}")) == others


@pytest.mark.parametrize(
    ("operators", "chosen"),
    [
        ("less_than: {attribute: b}", "0"),
        ("is: {attribute: b}", "1"),
        ("is_not: {attribute: b}", "02"),
        ("at_least: {attribute: b, times: 0.5}", "01"),
        ("between: [{attribute: b, times: 0.1}, 20 EUR]", "0"),
        ("in: [{attribute: b}, 1 EUR]", "1"),
        ("not_in: [{attribute: b}, 1 EUR]", "02"),
        ("is: {attribute: gone}", ""),
    ],
)
def test_reference_to_another_attribute(operators: str, chosen: str) -> None:
    """A comparison of two attributes is false where either is missing; two currencies never compare."""
    pairs = [("10", "20"), ("30", "30"), ("10", None), (None, "10")]
    rows = [{"user_id": str(place), "a": euros(a), "b": euros(b)} for place, (a, b) in enumerate(pairs)]
    rows[2]["b"] = euros("20", "USD")
    tables = Tables({"users": {"a": "price", "b": "price"}}, rows)
    assert "".join(tables.select(f"{{attribute: a, {operators}}}")) == chosen


def test_factor_is_exact() -> None:
    """A factor on a price computes in decimals: 0.9 times 100 is 90 and no more."""
    rows = [{"user_id": new, "old": euros("100"), "new": euros(new)} for new in ("89.9999", "90", "90.0001")]
    tables = Tables({"users": {"old": "price", "new": "price"}}, rows)
    assert tables.select("{attribute: new, less_than: {attribute: old, times: 0.9}}") == ["89.9999"]
    assert tables.select("{attribute: new, is: {attribute: old, times: 0.9}}") == ["90"]


@pytest.mark.parametrize(
    ("kinds", "spent", "budget", "factor", "smaller"),
    [
        (("integer", "integer"), 110, 100, "1.1", 109),
        (("integer", "integer"), 7, 1, "7.000000", 6),
        (("integer", "integer"), 2**62 - 1, 2**63 - 2, "0.5", 2**62 - 2),
        (("integer", "integer"), -(2**63) + 2, -(2**63) + 2, "1", -(2**63) + 1),
        (("integer", "number"), 110, 100.0, "1.1", 109),
        (("number", "integer"), 110.0, 100, "1.1", 109.99999999999999),
        (("number", "number"), 7.7, 7.0, "1.1", 7.6999999999999),
        (("number", "number"), 1e308, 1e308, "0.9", 8.9e307),
    ],
)
def test_factor_of_integers_and_numbers(
    kinds: tuple[Kind, Kind], spent: Any, budget: Any, factor: str, smaller: Any
) -> None:
    """A factor is the decimal that was written: 110 is at least 1.1 times 100, and the value below is not."""
    rows = [{"user_id": name, "spent": value, "budget": budget} for name, value in (("a", spent), ("b", smaller))]
    tables = Tables({"users": {"spent": kinds[0], "budget": kinds[1]}}, rows)
    assert tables.select(f"{{attribute: spent, at_least: {{attribute: budget, times: {factor}}}}}") == ["a"]
    assert tables.select(f"{{attribute: spent, less_than: {{attribute: budget, times: {factor}}}}}") == ["b"]


INTEGERS_AND_FLOATS: list[tuple[int, float, str]] = [
    (2**53 + 1, 2.0**53, "more"),
    (2**53, 2.0**53, "same"),
    (2**53 - 1, 2.0**53, "less"),
    (2**63 - 1, 2.0**63, "less"),
    (-(2**63), -(2.0**63), "same"),
    (-(2**63) + 1, -(2.0**63), "more"),
    (-7, -6.5, "less"),
    (0, -0.0, "same"),
    (2**63 - 1, 1e308, "less"),
    (5, float("inf"), "less"),
    (-5, float("-inf"), "more"),
    (5, float("nan"), "less"),
]
TRUE_OF = {
    "is": {"same"},
    "is_not": {"less", "more"},
    "less_than": {"less"},
    "at_most": {"less", "same"},
    "more_than": {"more"},
    "at_least": {"more", "same"},
}


@pytest.mark.parametrize("word", TRUE_OF)
def test_integers_and_floats_compare_exactly(word: str) -> None:
    """An integer and a float of one row compare by their exact values, on either side, also beyond 2^53."""
    rows = [{"user_id": f"{place:02}", "i": i, "f": f} for place, (i, f, _) in enumerate(INTEGERS_AND_FLOATS)]
    tables = Tables({"users": {"i": "integer", "f": "number"}}, [*rows, {"user_id": "i", "i": 1}, {"user_id": "none"}])
    opposite = {"less": "more", "more": "less", "same": "same"}
    orders = [order for _, _, order in INTEGERS_AND_FLOATS]
    whole = [row["user_id"] for row, order in zip(rows, orders, strict=True) if order in TRUE_OF[word]]
    binary = [row["user_id"] for row, order in zip(rows, orders, strict=True) if opposite[order] in TRUE_OF[word]]
    assert tables.select(f"{{attribute: i, {word}: {{attribute: f}}}}") == whole
    assert tables.select(f"{{attribute: f, {word}: {{attribute: i}}}}") == binary
    assert tables.select(f"{{attribute: i, {word}: {{attribute: f, times: 1}}}}") == whole
    assert tables.select(f"{{attribute: f, {word}: {{attribute: i, times: 1}}}}") == binary


def test_column_that_no_table_has() -> None:
    """A column that an older table lacks is missing for everybody, never an error while users wait."""
    tables = Tables({}, [{"user_id": "a"}])
    assert tables.select("{attribute: plan, is: paid}") == []
    assert tables.select("{attribute: plan, is_not: paid}") == []
    assert tables.select("{not: {attribute: plan, is_not: paid}}") == ["a"]
    assert tables.select("{attribute: plan, is_not_set: true}") == ["a"]
    assert tables.select("{device: plan, is_not_set: true}") == []
    assert tables.select("{event: buy, sum: {property: amount, at_most: 5 EUR}}") == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{attribute: age, at_least: soon}", "'soon' is not an integer"),
        ("{attribute: age, contains: 1}", "`contains` does not compare"),
        ("{attribute: age, is: {entry: age}}", "only where one user is judged"),
        ("{property: age, is: 1}", "`property` cannot stand here"),
        ("{any_device: {event: buy}}", "`event` cannot stand here"),
        ("{segment: circle}", "or contains itself"),
    ],
)
def test_condition_that_does_not_fit(text: str, message: str) -> None:
    """What the checker would have refused fails as a wrong definition, which is never retried."""
    from activities.segments.compiler import Built
    from tests.condition_tables import condition

    tables = Tables({"users": {"age": "integer"}}, [{"user_id": "a"}])
    tables.segments["circle"] = Built(condition("{not: {segment: circle}}"), "UTC")
    with pytest.raises(DefinitionError, match=message):
        tables.select(text)


PARIS = "Europe/Paris"
DAYS: list[tuple[str, str, str, list[str], str]] = [
    # zone, as_of, operators, instants, chosen
    (PARIS, "2026-03-15T23:30:00Z", "is: 2026-03-16", ["2026-03-15T22:59:59Z", "2026-03-15T23:00:00Z"], "1"),
    (PARIS, "2026-03-15T23:30:00Z", "days_ago: {exactly: 0}", ["2026-03-15T22:59:59Z", "2026-03-15T23:00:00Z"], "1"),
    # 29 March has 23 hours in Paris, 25 October has 25.
    (PARIS, "2026-03-30T10:00:00Z", "days_ago: {exactly: 1}", ["2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z"], "01"),
    (PARIS, "2026-03-30T10:00:00Z", "days_ago: {exactly: 1}", ["2026-03-28T22:59:59Z", "2026-03-29T22:00:00Z"], ""),
    (PARIS, "2026-10-26T12:00:00Z", "is: 2026-10-25", ["2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z"], "01"),
    (PARIS, "2026-10-26T12:00:00Z", "is: 2026-10-25", ["2026-10-24T21:59:59Z", "2026-10-25T23:00:00Z"], ""),
    # Durations are exact: 24 hours before is another time of day.
    (PARIS, "2026-03-29T10:00:00Z", "within_last: 1d", ["2026-03-28T10:00:00Z", "2026-03-28T09:59:59Z"], "0"),
    # Clocks of Beirut skip midnight on 29 March 2026: the day begins at one.
    ("Asia/Beirut", "2026-03-29T12:00:00Z", "is: 2026-03-29", ["2026-03-28T21:59:59Z", "2026-03-28T22:00:00Z"], "1"),
    # Samoa had no 30 December 2011.
    ("Pacific/Apia", "2011-12-31T12:00:00Z", "is: 2011-12-30", ["2011-12-30T09:59:59Z", "2011-12-30T10:00:00Z"], ""),
    ("Pacific/Apia", "2011-12-31T12:00:00Z", "is: 2011-12-31", ["2011-12-30T09:59:59Z", "2011-12-30T10:00:00Z"], "1"),
    ("Asia/Tokyo", "2026-02-27T16:00:00Z", "anniversary: {exactly: 0}", ["2000-02-28T14:00:00Z"], "0"),
    ("Asia/Tokyo", "2026-02-27T16:00:00Z", "anniversary: {exactly: 0}", ["2000-02-28T15:00:00Z"], "0"),
    ("Asia/Tokyo", "2024-02-27T16:00:00Z", "anniversary: {exactly: 0}", ["2000-02-28T15:00:00Z"], ""),
]


@pytest.mark.parametrize(("zone", "as_of", "operators", "values", "chosen"), DAYS)
def test_calendar_days_of_the_zone(zone: str, as_of: str, operators: str, values: list[str], chosen: str) -> None:
    """A calendar day is that of the segment's zone, however many hours it has."""
    rows = [{"user_id": str(place), "at": instant(value)} for place, value in enumerate(values)]
    tables = Tables({"users": {"at": "instant"}}, rows)
    assert "".join(tables.select(f"{{attribute: at, {operators}}}", instant(as_of), zone)) == chosen


@pytest.mark.parametrize(
    ("today", "exactly", "chosen"),
    [
        ("2026-02-28", 0, ["feb28", "feb29"]),
        ("2024-02-28", 0, ["feb28"]),
        ("2024-02-29", 0, ["feb29"]),
        ("2027-03-01", 0, ["mar01"]),
        ("2026-02-26", 2, ["feb28", "feb29"]),
        ("2024-02-27", 2, ["feb29"]),
        ("2026-12-31", 1, ["jan01"]),
        ("2027-03-01", 364, ["feb28"]),
        ("2027-03-01", 365, ["feb29"]),
    ],
)
def test_born_on_29_february(today: str, exactly: int, chosen: list[str]) -> None:
    """A birthday on 29 February is kept on the 28th in common years and on its day in leap years."""
    births = {"feb28": "1990-02-28", "feb29": "1988-02-29", "mar01": "1991-03-01", "jan01": "2001-01-01"}
    rows = [{"user_id": name, "born": date.fromisoformat(day)} for name, day in births.items()]
    tables = Tables({"users": {"born": "date"}}, rows)
    noon = datetime.fromisoformat(f"{today}T12:00:00+00:00")
    assert tables.select(f"{{attribute: born, anniversary: {{exactly: {exactly}}}}}", noon) == chosen


def test_date_and_instant_compare_by_day() -> None:
    """An instant compared with a date attribute is the day on which it falls in the zone."""
    row = {"user_id": "a", "seen": instant("2026-03-14T23:30:00Z"), "born": date(2026, 3, 15)}
    tables = Tables({"users": {"seen": "instant", "born": "date"}}, [row])
    text = "{attribute: seen, is: {attribute: born}}"
    assert tables.select(text, zone="UTC") == []
    assert tables.select(text, zone=PARIS) == ["a"]
    assert tables.select("{attribute: born, after: {attribute: seen}}", NOON, "UTC") == ["a"]
