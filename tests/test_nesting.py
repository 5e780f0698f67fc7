"""Nesting: a segment means the same users wherever it is referred to, and what is too deep or too large is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from activities.segments.nesting import LEVELS_LIMIT, PARTS_LIMIT
from tests.condition_tables import CONDITION
from tests.house import House
from workers.settings import Settings
from workflows.conditions import SegmentRef
from workflows.errors import DefinitionError

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)
SEEN = "user_id,seen\nlate,2026-03-29T23:30:00Z\nearly,2026-03-29T01:00:00Z\n"
INNER = "segment: inner\nmatch: {attribute: seen, is: 2026-03-29}\n"


def users(house: House, condition: Any, zone: str | None = None) -> list[str]:
    """Who is in a segment."""
    found = house.stores.segments.evaluate(CONDITION.validate_python(condition), NOW, zone=zone)
    return list(found.users.get_column("user_id"))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Paris", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_a_segment_means_the_same_wherever_it_is_referred_to(house: House, zone: str) -> None:
    """Calendar days of a segment without a zone are those of the default, whatever the zone of what refers to it."""
    house.load("users", SEEN)
    house.save(INNER)
    house.save(f"segment: outer\ntimezone: {zone}\nmatch: {{all: [{{segment: inner}}]}}\n")
    inner = users(house, {"segment": "inner"})
    assert inner == ["early", "late"]
    assert users(house, {"segment": "outer"}) == inner
    assert users(house, {"segment": "inner"}, zone) == inner
    evaluation = house.stores.segments.evaluate
    ref = SegmentRef(segment="outer")
    assert evaluation(ref, NOW, zone="UTC").users.equals(evaluation(ref, NOW, zone=zone).users)


def test_a_zone_of_its_own_is_kept(house: House) -> None:
    """A segment that names a zone keeps it inside another one, and the other keeps its own beside it."""
    house.load("users", SEEN)
    house.save(f"timezone: Europe/Paris\n{INNER}")
    house.save("segment: outer\nmatch: {all: [{segment: inner}, {attribute: seen, is: 2026-03-29}]}\n")
    assert users(house, {"segment": "inner"}) == ["early"]
    assert users(house, {"segment": "outer"}) == ["early"]
    assert users(house, {"all": [{"not": {"segment": "inner"}}, {"attribute": "seen", "is": "2026-03-29"}]}) == ["late"]


def test_the_setting_is_the_default(house: House) -> None:
    """Without a zone anywhere the days are those of JOURNEYS_TIMEZONE."""
    assert Settings(home=house.settings.home).timezone == house.stores.segments.zone == "UTC"


def chain(length: int, inner: str = "{everyone: true}", around: str = "{{segment: {}}}") -> str:
    """Write segments each of which refers to the one before."""
    documents = [f"segment: s0\nmatch: {inner}\n"]
    documents += [f"segment: s{number}\nmatch: {around.format(f's{number - 1}')}\n" for number in range(1, length)]
    return "---\n".join(documents)


def test_segments_in_segments_are_evaluated_to_the_limit(house: House) -> None:
    """As many segments in one another as are allowed are counted; one more is refused as what it is, and not saved."""
    house.save(chain(LEVELS_LIMIT))
    assert len(users(house, {"segment": f"s{LEVELS_LIMIT - 2}"})) == 6
    with pytest.raises(DefinitionError) as refused:
        house.save(f"segment: more\nmatch: {{segment: s{LEVELS_LIMIT - 1}}}\n")
    assert {fault.code for fault in refused.value.faults} == {"too-deep"}
    assert "contains itself" not in str(refused.value)
    assert "more" not in house.stores.catalogue.names("segment")


def test_deep_conditions_in_segments_are_refused_in_words(house: House) -> None:
    """Ten segments of fifty `not`s, which no stack could take, are refused when the limit is passed."""
    around = "{{not: " * 49 + "{{not: {{segment: {}}}}}" + "}}" * 49
    with pytest.raises(DefinitionError) as refused:
        house.save(chain(10, around=around))
    assert refused.value.faults[0].code == "too-deep"
    house.save(chain(2, around=around))
    assert len(users(house, {"segment": "s1"})) == 6


def test_doubling_is_refused_before_it_costs(house: House) -> None:
    """Segments that each refer twice to the one before are refused by their parts, and take no time that doubles."""
    around = "{{all: [{{segment: {0}}}, {{segment: {0}}}]}}"
    with pytest.raises(DefinitionError) as refused:
        house.save(chain(60, "{attribute: plan, is: paid}", around))
    assert [fault.code for fault in refused.value.faults] == ["too-large"]
    assert f"{PARTS_LIMIT:,}" in refused.value.faults[0].message
    house.save(chain(8, "{attribute: plan, is: paid}", around))
    assert users(house, {"segment": "s7"}) == ["u1", "u4"]


def test_a_circle_is_told_from_depth(house: House) -> None:
    """A circle is called so however short or long, and a segment may refer to an older version of itself."""
    house.save("segment: x\nmatch: {attribute: plan, is: paid}\n")
    house.save("segment: x\nmatch: {not: {segment: x@1}}\n")
    assert len(users(house, {"segment": "x"})) == 4
    for text in ("segment: x\nmatch: {segment: x}\n", chain(40) + "---\nsegment: s0\nmatch: {segment: s39}\n"):
        with pytest.raises(DefinitionError) as refused:
            house.save(text.replace("segment: s0\nmatch: {everyone: true}\n---\n", ""))
        assert {fault.code for fault in refused.value.faults} == {"circle"}
        assert "contains itself" in refused.value.faults[0].message


def test_the_digest_names_what_is_referred_to(house: House) -> None:
    """The digest of a reference changes with what lies behind it, however deep, and with its zone; else it stays."""
    house.load("users", SEEN)
    house.save(chain(4, INNER.partition("match: ")[2].strip()))
    condition = SegmentRef(segment="s3")
    digest = house.stores.segments.references
    before = digest().digest(condition)
    assert digest().digest(condition) == before
    house.save("segment: s0\ntimezone: Europe/Paris\nmatch: {attribute: seen, is: 2026-03-29}\n")
    zoned = digest().digest(condition)
    house.save("segment: s0\nmatch: {attribute: seen, is: 2026-03-28}\n")
    assert len({before, zoned, digest().digest(condition)}) == 3


def test_what_refers_to_a_segment_is_not_broken_by_it(house: House) -> None:
    """A segment that grows so that a saved one or a journey could not be evaluated is refused, and both go on."""
    house.save("segment: core\nmatch: {attribute: plan, is: paid}\n")
    house.save("segment: thrice\nmatch: {any: [{segment: core}, {not: {segment: core}}, {segment: core}]}\n")
    large = ", ".join("{attribute: plan, is: paid}" for _ in range(PARTS_LIMIT // 2))
    with pytest.raises(DefinitionError) as refused:
        house.save(f"segment: core\nmatch: {{any: [{large}]}}\n")
    (fault,) = refused.value.faults
    assert (fault.code, fault.line) == ("too-large", 1)
    assert "'thrice'" in fault.message
    assert len(users(house, {"segment": "thrice"})) == 6
    house.save(f"segment: other\nmatch: {{any: [{large}]}}\n")


def test_independent_circles_are_all_told(house: House) -> None:
    """Each circle is told once, whatever others there are."""
    circles = "segment: a\nmatch: {segment: a}\n---\nsegment: m\nmatch: {segment: n}\n---\nsegment: n\n"
    with pytest.raises(DefinitionError) as refused:
        house.save(circles + "match: {segment: m}\n")
    assert [(fault.code, fault.line) for fault in refused.value.faults] == [("circle", 2), ("circle", 5)]
