"""Messages: one language for the whole push, and templates that never leave an empty place."""

from __future__ import annotations

import time
from typing import Any

import pytest

from activities.push.messages import MissingValue, message_faults, needs_values, render, texts_for
from workflows.messages import Message, MessageTexts

SCHEMA: Any = {
    "users": {"user_id": "string", "first_name": "string", "age": "integer"},
    "devices": {"device_id": "string", "platform": "string"},
}
BASE = Message(
    title="Base title",
    body="Base body",
    link="app://base",
    languages={
        "fr": MessageTexts(title="Titre", body="Corps"),
        "fr-CA": MessageTexts(title="Titre CA"),
        "no": MessageTexts(title="Tittel", body="Tekst", link="app://no"),
    },
)
USER = {
    "user": {"user_id": "u1", "first_name": "Anna", "age": 30},
    "device": {"platform": "ios"},
    "journey": {"name": "j"},
}


@pytest.mark.parametrize(
    ("device", "language", "title", "body"),
    [
        ("fr", "fr", "Titre", "Corps"),
        ("fr-BE", "fr", "Titre", "Corps"),
        ("fr_BE", "fr", "Titre", "Corps"),
        ("FR", "fr", "Titre", "Corps"),
        ("fr-ca", "fr-CA", "Titre CA", "Base body"),
        ("no", "no", "Tittel", "Tekst"),
        ("nob", None, "Base title", "Base body"),
        ("de", None, "Base title", "Base body"),
        ("", None, "Base title", "Base body"),
        (None, None, "Base title", "Base body"),
    ],
)
def test_a_language_falls_back_to_its_parent_and_to_the_base(
    device: str | None, language: str | None, title: str, body: str
) -> None:
    """`fr-CA`, then `fr`, then the base texts, however the tag is written."""
    found = render(BASE, device, {})
    assert (found.language, found.title, found.body) == (language, title, body)


def test_one_language_serves_the_whole_message() -> None:
    """A text that the language lacks comes from the base texts, never from a third language."""
    texts, language = texts_for(BASE, "fr-CA")
    assert language == "fr-CA"
    assert texts == {"title": "Titre CA", "body": "Base body", "link": "app://base"}
    assert render(BASE, "no", {}).link == "app://no"


def message(title: str, **more: Any) -> Message:
    return Message(title=title, body="b", **more)


def test_values_stand_in_templates() -> None:
    """A template sees user, device and journey; filters apply."""
    found = render(
        message("{{ user.first_name | upcase }}, {{ user.age | plus: 1 }}, {{ device.platform }}"), None, USER
    )
    assert found.title == "ANNA, 31, ios"
    assert render(message("{% if user.age >= 18 %}grown{% else %}young{% endif %}"), None, USER).title == "grown"


def test_attributes_may_have_the_names_of_liquid_s_own() -> None:
    """`size`, `first` and `last` of a user are attributes like any other; where they are missing, they are missing."""
    own = {"user": {"size": "XL", "first": "Anna", "last": "Ba"}}
    assert render(message("{{ user.size }} {{ user.first }} {{ user.last }}"), None, own).title == "XL Anna Ba"
    for name in ("size", "first", "last"):
        with pytest.raises(MissingValue, match=name):
            render(message(f"{{{{ user.{name} }}}}"), None, USER)


def test_text_is_sent_as_it_was_written() -> None:
    """A value is inserted once and never read as a template, and nothing is escaped."""
    values = {"user": {"first_name": "{{ user.age }} <b>&"}}
    assert render(message("Hi {{ user.first_name }}"), None, values).title == "Hi {{ user.age }} <b>&"
    assert render(message("-20 % & more, 100 {"), None, {}).title == "-20 % & more, 100 {"


@pytest.mark.parametrize(
    "template",
    [
        "{{ user.first_name }}",
        "{{ user.first_name | upcase }}",
        "{{ nobody }}",
        "Hi {{ user.first_name | append: '!' }}",
    ],
)
def test_a_missing_value_is_an_error(template: str) -> None:
    """A value that is missing and has no default is an error of that message, with the text's name."""
    with pytest.raises(MissingValue, match="title"):
        render(message(template), None, {"user": {}})
    with pytest.raises(MissingValue, match="body"):
        render(Message(title="t", body=template), None, {"user": {}})


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ user.first_name | default: 'à vous' }}", "à vous"),
        ("{% if user.first_name %}Hi {{ user.first_name }}{% else %}Hi{% endif %}", "Hi"),
        ("{% unless user.first_name %}no name{% endunless %}", "no name"),
    ],
)
def test_a_default_or_a_condition_takes_the_place_of_a_missing_value(template: str, said: str) -> None:
    """`default` and conditions say what stands in for a missing value."""
    assert render(message(template), None, {"user": {}}).title == said


def test_only_the_chosen_language_needs_its_values() -> None:
    """A template of another language cannot fail a message."""
    found = message("Hi", languages={"fr": MessageTexts(title="Salut {{ user.first_name }}")})
    assert render(found, "en", {"user": {}}).title == "Hi"
    with pytest.raises(MissingValue):
        render(found, "fr", {"user": {}})


def test_messages_without_templates_need_no_values() -> None:
    """Whether a message reads differently from user to user is known, in any of its languages."""
    assert not needs_values(BASE)
    assert needs_values(message("{{ user.age }}"))
    assert needs_values(message("t", languages={"fr": MessageTexts(link="app://{{ user.user_id }}")}))


@pytest.mark.parametrize(
    ("template", "code", "quoted", "hint"),
    [
        ("{{ user.first_nam }}", "unknown-attribute", "first_nam", "first_name"),
        ("{{ device.platfrom }}", "unknown-attribute", "platfrom", "platform"),
        ("{{ usr.first_name }}", "unknown-name", "usr", "user"),
        ("{{ entri.order_id }}", "unknown-name", "entri", "entry"),
        ("{{ user.first_name | upcas }}", "unknown-filter", "upcas", "upcase"),
        ("{{ user.first_name ", "bad-template", "first_name", ""),
        ("{% if user.age %}x", "bad-template", "if", ""),
        ("{% include 'other' %}", "bad-template", "include", ""),
        ("{% if user.aeg > 3 %}x{% endif %}", "unknown-attribute", "aeg", "age"),
    ],
)
def test_what_a_template_uses_is_checked(template: str, code: str, quoted: str, hint: str) -> None:
    """Unknown names, attributes and filters, and templates that do not parse, are faults before anything runs."""
    (fault,) = message_faults(message(template), ("elements", "promo", "message"), SCHEMA)
    assert (fault.code, fault.path) == (code, "elements.promo.message.title")
    assert quoted in fault.message
    assert hint in fault.hint


def test_every_language_is_checked() -> None:
    """Faults of all texts of all languages are found together, each with its path."""
    found = Message(
        title="{{ user.x }}",
        body="{{ user.first_name | default: 'you' }}",
        languages={"fr": MessageTexts(body="{{ y }}"), "no": MessageTexts(link="{{ user.age | z }}")},
    )
    assert [fault.path for fault in message_faults(found, ("message",), SCHEMA)] == [
        *("message.title", "message.languages.fr.body", "message.languages.no.link")
    ]


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in (1..1000000000) %}x{% endfor %}",
        "{% for a in (1..1000) %}{% for b in (1..1000) %}x{% endfor %}{% endfor %}",
        "{% assign a = 'xxxxxxxxxxxxxxxx' %}" + "{% assign a = a | append: a %}" * 30 + "{{ a }}",
        "{% for a in (1..900) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}",
        "{{ (1..3000000) | join: ',' }}",
    ],
)
def test_a_template_is_bounded(template: str) -> None:
    """A template that would run or grow without end fails its message within a moment."""
    began = time.process_time()
    with pytest.raises(MissingValue):
        render(message(template), None, USER)
    assert time.process_time() - began < 1
