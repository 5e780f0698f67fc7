"""What a push says: texts by language, and how providers are to treat it."""

from __future__ import annotations

import json
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from workflows.scalars import Duration, Text, refusal


def _json_object(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise refusal("json", f"{text[:80]!r} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise refusal("json", f"{text[:80]!r} is no JSON object: write {{...}}")
    return text


JsonObject: TypeAlias = Annotated[str, AfterValidator(_json_object)]
"""A JSON object as text, so that numbers in it stay numbers."""


class Document(BaseModel):
    """What every model of a document shares: immutable, strict about keys, text where text is meant."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,
        populate_by_name=True,
        serialize_by_alias=True,
    )


class MessageTexts(Document):
    """Texts of a push in one language. Each may be a Liquid template."""

    title: str | None = None
    """The headline."""
    subtitle: str | None = None
    """The line under the headline, where the platform shows one."""
    body: str | None = None
    """The text."""
    image: str | None = None
    """Address of a picture."""
    link: str | None = None
    """Where a tap leads: a deep link or an address."""


class Message(MessageTexts):
    """What a push says: base texts, texts for some languages, and how it is to be delivered."""

    title: str
    body: str
    languages: dict[str, MessageTexts] = Field(default_factory=dict)
    """Texts by language tag. A device in `fr-CA` gets `fr-CA`, else `fr`, else the base texts, for the whole push."""
    data: dict[str, Text] = Field(default_factory=dict)
    """Values for the application, each a text and maybe a template. `push_id`, `journey`, `element` are added."""
    badge: Annotated[int, Field(ge=0)] | None = None
    """The number on the application's icon."""
    sound: str | None = None
    """The sound's name."""
    ttl: Duration = "28d"
    """How long it is worth delivering: providers keep it so long for a device that is away, 28 days at most."""
    priority: Literal["high", "normal"] = "high"
    """`high` wakes a device; `normal` may wait."""
    collapse_key: str | None = None
    """Replaces an undelivered message of the same key; left out: one for each push, so only a repeat is replaced."""
    platforms: dict[Literal["ios", "android", "web"], JsonObject] = Field(default_factory=dict)
    """Values for one platform's payload, each a JSON object as text, merged into what is made from the rest."""
