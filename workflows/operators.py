"""The operators of the segment language, and the values they take.

A comparison is true or false, never unknown: where the column or the value it is compared with is missing, it is
false, whatever the operator, except `is_not_set`. What a text means is decided by the type of the column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails, InitErrorDetails
from pydantic_core.core_schema import ErrorType

from workflows.scalars import Boolean, Duration, Factor, Text, Unwritten, Whole, Yes, is_true, nearest, quoted, refusal

LOWER_BOUNDS = frozenset({"at_least", "more_than", "after", "within_last"})
UPPER_BOUNDS = frozenset({"at_most", "less_than", "before", "older_than"})
"""One of each may stand together in a leaf. `within_last` with `older_than` is a window that ended some time ago."""

RELATIVE_OPERATORS = frozenset({"within_last", "within_next", "older_than", "days_ago", "days_ahead", "anniversary"})
"""Operators whose answer changes as time passes."""


def _without_nulls(schema: JsonDict) -> None:
    """Publish a field that may be left out as just that: writing null into it is an error."""
    fields = schema.get("properties", {})
    for field in fields.values() if isinstance(fields, dict) else ():
        if not isinstance(field, dict):
            continue
        options = field.get("anyOf")
        if isinstance(options, list) and {"type": "null"} in options:
            kept = [option for option in options if option != {"type": "null"}]
            del field["anyOf"], field["default"]
            field.update(kept[0] if len(kept) == 1 and isinstance(kept[0], dict) else {"anyOf": kept})


class Node(BaseModel):
    """What every part of a condition shares: immutable, and it refuses what it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
        serialize_by_alias=True,
        json_schema_extra=_without_nulls,
    )

    misplaced: ClassVar[Mapping[str, str]] = {}
    """Keys that people write here and that belong elsewhere, each with where."""

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, data: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """Word the keys that are not known, beside whatever else is wrong, so that two typos are two faults."""
        if not isinstance(data, Mapping):
            return read(data)
        found = [
            InitErrorDetails(type=refusal("no-value", f"`{key}` is null: leave it out, or give it a value"), input=data)
            for key, value in data.items()
            if value is None
        ]
        try:
            made = read(data)
        except ValidationError as error:
            found += cls._reworded(data, error.errors(include_url=False))
        else:
            if not found:
                return made
        raise ValidationError.from_exception_data(cls.__name__, found)

    @classmethod
    def _reworded(cls, data: Mapping[str, Any], problems: list[ErrorDetails]) -> Iterator[InitErrorDetails]:
        """Give the faults that were found, in our words where a key is not known."""
        keys = [field.alias or name for name, field in cls.model_fields.items()]
        meant: set[str] = set()
        for problem in problems:
            if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
                key = problem["loc"][0]
                near = nearest(str(key), keys)
                meant.update(near[:1])
                known = f"did you mean {quoted(near)}?" if near else f"known are {quoted(keys)}"
                text = f"{key!r} is not known here: {cls.misplaced.get(str(key)) or known}"
                yield InitErrorDetails(type=refusal("unknown-key", text), input=data)
        for problem in problems:
            own = problem["loc"][0] if len(problem["loc"]) == 1 else None
            missing = problem["type"] == "missing" and own in meant
            # One typo is one fault, and what is null has been told to be.
            if not (own and (problem["type"] == "extra_forbidden" or missing or problem["input"] is None)):
                yield _again(problem)


def _again(problem: ErrorDetails) -> InitErrorDetails:
    """Take a fault that was found into the list of all faults."""
    kind = problem["type"]
    if kind not in _BUILT_IN:
        return InitErrorDetails(type=refusal(kind, problem["msg"]), loc=problem["loc"], input=problem["input"])
    return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"], ctx=problem.get("ctx", {}))


_BUILT_IN = frozenset(get_args(ErrorType))
"""Pydantic's own kinds of faults; any other is worded by a validator of ours."""


class AttributeRef(Node):
    """The value of another attribute: of the same device inside `any_device`, of the user anywhere else."""

    attribute: str
    """The attribute's name."""
    times: Factor | None = None
    """A decimal factor for numbers and prices, such as `0.9`: exact for integers and prices."""


class PropertyRef(Node):
    """The value of another property of the same event."""

    property: str
    """The property's name."""
    times: Factor | None = None
    """A decimal factor for numbers and prices, such as `0.9`: exact for integers and prices."""


class EntryRef(Node):
    """A value of the event by which the one user who is judged entered the journey."""

    entry: str
    """The name of the entry event's property."""
    times: Factor | None = None
    """A decimal factor for numbers and prices, such as `0.9`: exact for integers and prices."""


Reference: TypeAlias = AttributeRef | PropertyRef | EntryRef
"""A value that is found in the tables."""

_REFERENCES = ("attribute", "property", "entry")


def _written(value: Any) -> Any:
    if isinstance(value, Unwritten):
        raise refusal(
            "no-value",
            "no value is written here: write `''` for the empty text; `is_not_set: true` finds what is missing",
        )
    return value


def _known_value(value: Any) -> Any:
    if isinstance(value, Mapping) and sum(key in value for key in _REFERENCES) != 1:
        known = quoted(f"{{{key}: NAME}}" for key in _REFERENCES)
        raise refusal("reference", f"{dict(value)!r} is no value: write text, or one of {known}")
    return _written(value)


def _value_tag(value: Any) -> str:
    keys: Iterable[str] = ()
    if isinstance(value, Mapping):
        keys = value
    elif isinstance(value, AttributeRef | PropertyRef | EntryRef):
        keys = type(value).model_fields
    return next((f"({key})" for key in _REFERENCES if key in keys), "(text)")


def _listed(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise refusal("list", f"a list is expected, such as `[paid, pro]`, not {value!r}")
    if not value:
        raise refusal("list", "the list is empty: name at least one value")
    return value


def _paired(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise refusal("pair", f"two values are expected, such as `[10, 20]`, the lower first, not {value!r}")
    return value


Value: TypeAlias = Annotated[
    Annotated[Text, Tag("(text)")]
    | Annotated[AttributeRef, Tag("(attribute)")]
    | Annotated[PropertyRef, Tag("(property)")]
    | Annotated[EntryRef, Tag("(entry)")],
    Discriminator(_value_tag),
    BeforeValidator(_known_value),
]
"""A text, or a reference to a value in the tables."""

Values: TypeAlias = Annotated[tuple[Value, ...], BeforeValidator(_listed), Field(min_length=1)]
"""Some values, at least one."""

Pair: TypeAlias = Annotated[tuple[Value, Value], BeforeValidator(_paired)]
"""A lower and an upper value."""


class Operators(Node):
    """What has operators: one, or a lower and an upper bound."""

    words: ClassVar[tuple[str, ...]]
    """The operators of this class, as documents write them."""
    required: ClassVar[bool] = True
    """Whether one operator has to be given."""

    @property
    def operators(self) -> dict[str, Any]:
        """The operators that were given, by the word the document uses."""
        values = ((word, getattr(self, _FIELDS.get(word, word))) for word in self.words)
        return {word: value for word, value in values if value is not None}

    @property
    def operands(self) -> list[Any]:
        """What is compared with: each value and reference, those of a list one by one."""
        return [one for value in self.operators.values() for one in (value if isinstance(value, tuple) else (value,))]

    @model_validator(mode="after")
    def _one_test(self) -> Operators:
        found = list(self.operators)
        if not found and self.required:
            raise refusal("no-operator", f"an operator is missing: give one of {quoted(self.words)}")
        pair = len(found) == 2 and len(LOWER_BOUNDS & {*found}) == len(UPPER_BOUNDS & {*found}) == 1
        if len(found) > 1 and not pair:
            raise refusal(
                "operators",
                f"{len(found)} operators found, {quoted(found)}: a leaf has one, or one lower and one upper bound. "
                "Put several tests under `all` or `any`",
            )
        return self


_FIELDS = {"is": "is_", "in": "in_"}
"""Operators that are reserved words of Python, and the fields that hold them."""


class HowMany(Operators):
    """A test of a whole number: one of these, or a lower and an upper bound."""

    words = ("exactly", "at_least", "at_most", "between")

    exactly: Whole | None = None
    """This number."""
    at_least: Whole | None = None
    """This number or more."""
    at_most: Whole | None = None
    """This number or fewer."""
    between: Annotated[tuple[Whole, Whole], BeforeValidator(_paired)] | None = None
    """From the first number to the second, both included."""

    @property
    def limits(self) -> tuple[int, int | None]:
        """The least and the greatest number for which it is true; None for no greatest."""
        if self.exactly is not None:
            return int(self.exactly), int(self.exactly)
        if self.between is not None:
            return int(self.between[0]), int(self.between[1])
        return int(self.at_least or 0), None if self.at_most is None else int(self.at_most)

    @model_validator(mode="after")
    def _some_number(self) -> HowMany:
        least, most = self.limits
        if most is not None and most < least:
            raise refusal("empty-range", f"no number is from {least} to {most}: the lower comes first")
        return self


_NEAR_DAYS = {"today": "0", "tomorrow": "1", "yesterday": "1"}


def _bounded(value: Any, info: ValidationInfo) -> Any:
    """Say how a number is compared, where it was written alone."""
    if isinstance(value, Mapping | HowMany):
        return value
    written = _NEAR_DAYS.get(str(value), str(value))
    number = written if written.isascii() and written.isdigit() else "3"
    meant = f"{info.field_name}: {{exactly: {number}}}"
    if isinstance(value, list | tuple) and len(value) == 2:
        meant = f"{info.field_name}: {{between: [{value[0]}, {value[1]}]}}"
    found = repr(str(value)) if value else "nothing"
    raise refusal(
        "how-many",
        f"a mapping that says how it is compared is expected, not {found}: write `{meant}`; "
        f"it has one of {quoted(HowMany.words)}",
    )


Bounds: TypeAlias = Annotated[HowMany, BeforeValidator(_bounded)]
"""A test of a whole number, written as a mapping."""


class DateOperators(Operators):
    """Comparisons of dates and instants. Where the value is missing, each is false.

    An instant that is compared with a bare date is compared by the calendar day on which it falls in the segment's
    zone. Durations are exact to the second on instants and whole calendar days on dates.
    """

    words: ClassVar[tuple[str, ...]] = (
        "between",
        "before",
        "after",
        "within_last",
        "within_next",
        "older_than",
        "days_ago",
        "days_ahead",
        "anniversary",
    )

    between: Pair | None = None
    """From the first value to the second, both included: numbers, prices, versions, dates, instants."""
    before: Value | None = None
    """Earlier than the day or instant named, which is excluded."""
    after: Value | None = None
    """Later than the day or instant named, which is excluded."""
    within_last: Duration | None = None
    """Not longer ago than this, and not in the future: `30d`."""
    within_next: Duration | None = None
    """Not in the past, and not further ahead than this: `7d`."""
    older_than: Duration | None = None
    """Longer ago than this: `90d`."""
    days_ago: Bounds | None = None
    """How many calendar days ago, today being 0; false for days to come: `{exactly: 3}`."""
    days_ahead: Bounds | None = None
    """In how many calendar days, today being 0; false for days past: `{at_most: 3}`."""
    anniversary: Bounds | None = None
    """In how many calendar days the day and month come round next, today being 0; 29 February counts on the 28th
    in common years."""


class Comparison(DateOperators):
    """One comparison: an operator, or one lower and one upper bound. Where the value is missing, it is false."""

    words = (
        "is",
        "is_not",
        "in",
        "not_in",
        "is_set",
        "is_not_set",
        "at_least",
        "at_most",
        "more_than",
        "less_than",
        *DateOperators.words,
        "contains",
        "starts_with",
        "ends_with",
        "matches",
        "has",
        "has_any",
        "has_all",
    )

    is_: Value | None = Field(default=None, alias="is")
    """Equal to the value. False where the attribute is missing."""
    is_not: Value | None = None
    """Has a value, and another one: false where the attribute is missing. A price in another currency is another."""
    in_: Values | None = Field(default=None, alias="in")
    """Equal to one of the values. False where the attribute is missing."""
    not_in: Values | None = None
    """Has a value, and none of these: false where the attribute is missing."""
    is_set: Yes | None = None
    """`true`: has a value. An empty text is a value, and so is an empty list."""
    is_not_set: Yes | None = None
    """`true`: has no value. The only operator that is true where the attribute is missing."""
    at_least: Value | None = None
    """This or more: numbers, prices of the same currency, versions, dates, instants. False where missing."""
    at_most: Value | None = None
    """This or less. False where missing."""
    more_than: Value | None = None
    """More than this. False where missing."""
    less_than: Value | None = None
    """Less than this. False where missing."""
    contains: Value | None = None
    """A string with this text in it. False where missing."""
    starts_with: Value | None = None
    """A string that begins with this text. False where missing."""
    ends_with: Value | None = None
    """A string that ends with this text. False where missing."""
    matches: Annotated[Text, BeforeValidator(_written)] | None = None
    """A string in which this regular expression finds something. False where missing."""
    has: Value | None = None
    """A list that holds this value. False where missing or empty."""
    has_any: Values | None = None
    """A list that holds at least one of these values. False where missing or empty."""
    has_all: Values | None = None
    """A list that holds each of these values. False where missing or empty."""
    ignore_case: Boolean | None = None
    """`true`: upper and lower case count as the same, in any comparison of strings or lists."""

    @property
    def ignores_case(self) -> bool:
        """Whether upper and lower case count as the same."""
        return self.ignore_case is not None and is_true(self.ignore_case)
