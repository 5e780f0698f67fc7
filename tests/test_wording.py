"""What pydantic refuses is told in our words: each fault at its place in the document, once, with what was meant."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from activities.documents.reading import RawDocument, faults_of, read_text


def one(text: str) -> RawDocument:
    (document,) = read_text(textwrap.dedent(text), "j.yaml")
    return document


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def _duration(text: str) -> str:
    if not text.endswith("d"):
        raise ValueError(f"{text!r} is not a duration: write it like 30d")
    return text


Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=20)]
Duration = Annotated[str, AfterValidator(_duration)]


class Way(Strict):
    share: int
    next: Id


def _long_form(value: Any) -> Any:
    return {"share": "1", "next": value} if isinstance(value, str) else value


class Push(Strict):
    kind: Literal["push"]
    purpose: Literal["marketing", "transactional"] = "marketing"
    message: dict[str, str] = {}
    next: Id | None = None
    ways: list[Way] = []
    least: Annotated[tuple[int, ...], Field(min_length=2)] = (1, 2)
    short: Annotated[Way, BeforeValidator(_long_form)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Push:
        if self.next is None and not self.ways:
            raise ValueError("a push has either `next` or `ways`")
        return self


class Delay(Strict):
    kind: Literal["time-delay"]
    duration: Duration
    next: Id


class Exit(Strict):
    kind: Literal["exit"]


Element = Annotated[Push | Delay | Exit, Field(discriminator="kind")]


class All(Strict):
    all: list[Condition]


class Not(Strict):
    not_: Condition = Field(alias="not")


class Reference(Strict):
    attribute: str
    times: float = 1


class Comparison(Strict):
    attribute: str
    is_: str | Reference | None = Field(default=None, alias="is")
    at_least: int | None = None


def _subject(value: Any) -> str | None:
    return next((key for key in ("all", "not", "attribute") if isinstance(value, dict) and key in value), None)


Condition = Annotated[
    Annotated[All, Tag("all")] | Annotated[Not, Tag("not")] | Annotated[Comparison, Tag("attribute")],
    Discriminator(_subject),
]


class AtMost(Strict):
    at_most: Annotated[int, Field(ge=1)]
    per: Duration


class Keyed(Strict):
    key: str


class Journey(Strict):
    journey: Id
    reentry: Literal["never", "after_exit"] | AtMost | Keyed = "never"
    match: Condition | None = None
    elements: Annotated[dict[Id, Element], Field(min_length=1)]


for _model in (All, Not, Comparison, Journey):
    _model.model_rebuild()


def refused(text: str) -> list[tuple[str, str, int | None, int | None, str]]:
    document = one(text)
    with pytest.raises(ValidationError) as caught:
        Journey.model_validate(document.data)
    return [
        (f.code, f.path, f.line, f.column, f"{f.message} | {f.hint}")
        for f in faults_of(caught.value, document, Journey)
    ]


def test_two_typos_are_two_faults() -> None:
    """A misspelt key and a misspelt value: two faults at their places, each with what was meant."""
    faults = refused(
        """\
        journey: a
        elements:
          hello: {kind: push, purpose: marketting, next: done}
          wait:
            kind: time-delay
            duration: 3d
            nxt: done
          done: {kind: exit}
        """
    )
    assert faults == [
        (
            "wrong-value",
            "elements.hello.purpose",
            3,
            32,
            "'marketting' is not allowed here | did you mean `marketing`? allowed here: `marketing`, `transactional`",
        ),
        ("unknown-key", "elements.wait.nxt", 7, 5, "unknown key 'nxt' | did you mean `next`? allowed here: `next`"),
    ]


def test_an_unknown_kind_is_told_with_the_kinds() -> None:
    """The kind is quoted where it stands; a missing one says which there are; a text in its place is no mapping."""
    faults = refused("journey: a\nelements:\n  a: {kind: psuh}\n  b: {knd: exit}\n  c: exit\n  d: {kind: [exit]}\n")
    assert [fault[:4] for fault in faults] == [
        ("unknown-kind", "elements.a.kind", 3, 13),
        ("missing-key", "elements.b", 4, 3),
        ("wrong-type", "elements.c", 5, 6),
        ("unknown-kind", "elements.d.kind", 6, 13),
    ]
    assert "did you mean `push`? each kind: `push`, `time-delay`, `exit`" in faults[0][4]
    assert "in place of `knd`" in faults[1][4]
    assert "'exit'" in faults[2][4]


def test_of_a_mapping_of_another_kind_only_the_kind_is_told() -> None:
    """Where one kind is known, another is one fault: its keys are not measured by those of the first."""
    document = one("journey: a\nkind: leave\nnext: b\nto: c\n")
    with pytest.raises(ValidationError) as caught:
        Delay.model_validate(document.data)
    (fault,) = faults_of(caught.value, document, Delay)
    assert (fault.code, fault.path, fault.line, fault.column) == ("unknown-kind", "kind", 2, 7)


def test_ways_hold_no_tags_of_unions() -> None:
    """The way to a fault deep in conditions is that of the document, through lists, aliases and tags that are keys."""
    faults = refused(
        """\
        journey: a
        match:
          all:
            - {attribute: plan, is: paid}
            - not:
                all:
                  - {attribute: age, at_least: old}
                  - {atribute: age}
                  - {attribute: age, is: {attribute: x, tims: 2}}
                  - {}
        elements: {e: {kind: exit}}
        """
    )
    assert [fault[:4] for fault in faults] == [
        ("wrong-value", "match.all[1].not.all[0].at_least", 7, 40),
        ("unknown-kind", "match.all[1].not.all[1].atribute", 8, 14),
        ("unknown-key", "match.all[1].not.all[2].is.tims", 9, 49),
        ("unknown-kind", "match.all[1].not.all[3]", 10, 13),
    ]
    assert "'old' is not a whole number" in faults[0][4]
    assert "did you mean `attribute`?" in faults[1][4]
    assert "did you mean `times`?" in faults[2][4]


@pytest.mark.parametrize(
    ("reentry", "code", "path", "said"),
    [
        ("nevr", "wrong-value", "reentry", "did you mean `never`?"),
        ("nevr", "wrong-value", "reentry", "or write a mapping with `at_most`, `per`"),
        ("{at_most: 0, per: 3d}", "wrong-value", "reentry.at_most", "'0' is not allowed here: it must be at least 1"),
        ("{at_most: 1, pr: 3d}", "unknown-key", "reentry.pr", "did you mean `per`?"),
        ("{at_most: 1, per: 3x}", "wrong-value", "reentry.per", "'3x' is not a duration: write it like 30d"),
        ("{key: [a]}", "wrong-type", "reentry.key", "expected a text, found a list"),
        ("[a]", "wrong-type", "reentry", "expected `never`, `after_exit` or a mapping"),
    ],
)
def test_of_a_union_only_the_member_that_was_meant_is_heard(reentry: str, code: str, path: str, said: str) -> None:
    """A text, a mapping of one shape or another, a list: one fault, about what the author was writing."""
    (fault,) = refused(f"journey: a\nreentry: {reentry}\nelements: {{e: {{kind: exit}}}}\n")
    assert fault[:3] == (code, path, 2)
    assert said in fault[4]


def test_what_is_missing_wrong_or_too_long_is_told_where_it_is() -> None:
    """Missing keys, empty mappings, bad names as keys and values, and our own words for what belongs together."""
    faults = refused(
        f"""\
        journey: My Journey
        elements:
          Hello There: {{kind: push}}
          wait: {{kind: time-delay, duration: 3d}}
          split:
            kind: push
            ways:
              - {{share: ten, next: done}}
              - {{share: 1}}
              - done
            message: {{title: [a]}}
          other: {{kind: push, next: {"x" * 200}}}
          short: {{kind: push, short: Bad Name}}
        """
    )
    assert [fault[:4] for fault in faults] == [
        ("wrong-value", "journey", 1, 10),
        ("wrong-value", "elements.Hello There", 3, 3),
        ("wrong-value", "elements.Hello There", 3, 16),
        ("missing-key", "elements.wait", 4, 3),
        ("wrong-value", "elements.split.ways[0].share", 8, 17),
        ("missing-key", "elements.split.ways[1]", 9, 9),
        ("wrong-type", "elements.split.ways[2]", 10, 9),
        ("wrong-type", "elements.split.message.title", 11, 22),
        ("wrong-value", "elements.other.next", 12, 29),
        ("wrong-value", "elements.short.short", 13, 30),
    ]
    assert "did you mean `my-journey`?" in faults[0][4]
    assert "'Hello There'" in faults[1][4]
    assert "a push has either `next` or `ways`" in faults[2][4]
    assert "missing key 'next'" in faults[3][4]
    assert "x" * 76 not in faults[8][4]
    assert "'Bad Name'" in faults[9][4]


def test_an_empty_value_is_told_as_nothing() -> None:
    """`elements:` without anything, and an empty mapping, are told for what they are."""
    assert "expected a mapping, found nothing" in refused("journey: a\nelements:\n")[0][4]
    assert "expected at least 1" in refused("journey: a\nelements: {}\n")[0][4]


def test_a_list_is_not_called_too_short_for_its_wrong_items() -> None:
    """A list whose items are wrong has their faults alone; one that is too short beside them says that too."""
    ways = "journey: a\nelements: {a: {kind: push, next: b, least: [%s]}}\n"
    assert [fault[1] for fault in refused(ways % "many, more, most")] == [
        f"elements.a.least[{place}]" for place in range(3)
    ]
    assert [fault[1] for fault in refused(ways % "many")] == ["elements.a.least", "elements.a.least[0]"]


def test_the_language_of_segments_is_told_in_its_own_words() -> None:
    """The real models: one fault for each of three typos, at the key or value that is wrong."""
    from workflows.documents import SegmentDocument

    document = one(
        """\
        segment: loyal
        match:
          all:
            - {atribute: plan, is: paid}
            - {attribute: plan, iss: paid}
            - event: purchase
              count: {at_least: many}
        """
    )
    with pytest.raises(ValidationError) as caught:
        SegmentDocument.model_validate(document.data)
    faults = faults_of(caught.value, document, SegmentDocument)
    assert [(f.path, f.line, f.column) for f in faults] == [
        ("match.all[0]", 4, 7),
        ("match.all[1].iss", 5, 25),
        ("match.all[2].count.at_least", 7, 25),
    ]
    assert "`attribute`" in faults[0].message
    assert "`is`" in faults[1].message
    assert "'many'" in faults[2].message
