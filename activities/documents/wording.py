"""Words what pydantic refuses: the way in the document, the place in the file, and what to do.

Pydantic reports a way through its own schema, in which the choices it took stand among the keys of the document, and
one error for each member of a union it tried. So the schema is walked beside the document: choices are dropped, and
of a union only the member that was meant is heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from activities.documents.phrases import code_and_message, is_missing, what_is
from activities.documents.raw import DocumentPath, RawDocument, excerpt, suggestion
from workflows.errors import Fault
from workflows.scalars import nearest, quoted

Schema: TypeAlias = Mapping[str, Any]
"""A core schema of pydantic, or an empty mapping where it is not known."""

_WRAPPERS = {
    "definitions": "schema",
    "model": "schema",
    "dataclass": "schema",
    "nullable": "schema",
    "default": "schema",
    "function-after": "schema",
    "function-before": "schema",
    "function-wrap": "schema",
    "lax-or-strict": "lax_schema",
    "json-or-python": "python_schema",
}
"""Schemas that add nothing to the way, and the key of what they hold."""

_FIELDS = ("model-fields", "typed-dict", "dataclass-args")
_MAPPINGS = (*_FIELDS, "dict", "tagged-union")
_LISTS = ("list", "tuple", "set", "frozenset", "generator")
_ANYTHING = ("any", "function-plain", "is-instance", "custom-error", "json", "")

_KEY = ("[key]",)
"""How pydantic ends the way to a key of a mapping, where the key itself is wrong."""

_STRAY = ("unknown-key", "missing-key", "unknown-kind", "wrong-type")
"""Faults that say a value was meant for another member of its union."""


class _Problem(NamedTuple):
    """An error of pydantic, and the part of its way that is not yet walked."""

    way: tuple[str | int, ...]
    details: ErrorDetails


class _Found(NamedTuple):
    """A fault and where it is; `key` when the key is wrong, not the value."""

    path: DocumentPath
    code: str
    message: str
    hint: str = ""
    key: bool = False


def faults_of(error: ValidationError, raw: RawDocument, model: type[BaseModel] | TypeAdapter[Any]) -> list[Fault]:
    """Say in our words what pydantic refused.

    Args:
        error: What validating the document's data raised.
        raw: The document.
        model: What the data was validated as.

    Returns:
        The faults in the order of the document, one for each thing that is wrong.
    """
    schema: Schema = model.core_schema if isinstance(model, TypeAdapter) else model.__pydantic_core_schema__
    problems = [_Problem(details["loc"], details) for details in error.errors(include_url=False)]
    found = _Walk().read(schema, problems, raw.data, ())
    faults = [raw.fault(one.path, one.code, one.message, one.hint, key=one.key) for one in dict.fromkeys(found)]
    return sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0))


def _counts_what_is_wrong(details: ErrorDetails, data: Any) -> bool:
    """Tell whether a list is called too short only because its wrong items do not count: they have their own faults."""
    least = details.get("ctx", {}).get("min_length", 0)
    return details["type"] == "too_short" and isinstance(data, list) and len(data) >= least


class _Walk:
    """Walks schema and document side by side."""

    def __init__(self) -> None:
        self._definitions: dict[str, Schema] = {}

    def read(self, schema: Schema, problems: list[_Problem], data: Any, path: DocumentPath) -> list[_Found]:
        """Word the problems of one value and of all that is in it."""
        schema = self._inner(schema)
        own = [problem.details for problem in problems if not problem.way]
        found = [self._worded(schema, one, data, path) for one in own if not _counts_what_is_wrong(one, data)]
        for problem in problems:
            if problem.way == _KEY:
                found.append(self._worded({}, problem.details, path[-1], path)._replace(key=True))
        deeper = [problem for problem in problems if problem.way not in ((), _KEY)]
        if not deeper:
            return found
        match schema.get("type", ""):
            case "tagged-union":
                for tag, group in _by_step(deeper):
                    found += self.read(self._choice(schema, tag), group, data, path)
            case "union":
                found += self._meant(schema, deeper, data, path)
            case _:
                found += self._parts(schema, deeper, data, path)
        return found

    def _parts(self, schema: Schema, problems: list[_Problem], data: Any, path: DocumentPath) -> list[_Found]:
        """Word the problems of the parts of a mapping or list."""
        found: list[_Found] = []
        missing: list[str] = []
        unknown: list[str] = []
        allowed = self._keys(schema)
        for step, group in _by_step(problems):
            own = [problem.details for problem in group if not problem.way]
            part = self._inner(self._part(schema, step))
            if own and own[0]["type"] == "literal_error" and len(part["expected"]) == 1 and isinstance(data[step], str):
                # The constant that tells what the mapping is: of another kind nothing else can be said.
                hint = suggestion(data[step], map(str, part["expected"]), f"each {step}")
                return [_Found((*path, step), f"unknown-{step}", f"unknown {step} {excerpt(data[step])}", hint)]
            if any(is_missing(details) for details in own):
                missing.append(str(step))
            elif any(details["type"] in ("extra_forbidden", "unexpected_keyword_argument") for details in own):
                unknown.append(str(step))
            elif _has(data, step):
                found += self.read(part, group, data[step], (*path, step))
            elif schema:
                # A validator changed the value before its parts were read: the author knows only the whole.
                found += [self._worded({}, problem.details, data, path) for problem in group]
            else:
                found += self.read({}, group, data, path)  # most likely the choice of a union
        free = [key for key in allowed if not _has(data, key)]
        for key in unknown:
            near = nearest(key, free)[:1]
            if near and near[0] in missing:
                missing.remove(near[0])  # one typo, one fault
            hint = suggestion(key, free or allowed)
            found.append(_Found((*path, key), "unknown-key", f"unknown key {excerpt(key)}", hint, key=True))
        for key in missing:
            found.append(_Found(path, "missing-key", f"missing key {excerpt(key)}", key=True))
        return found

    def _meant(self, schema: Schema, problems: list[_Problem], data: Any, path: DocumentPath) -> list[_Found]:
        """Word the problems of that member of a union which the author meant, going by the shape of the value."""
        members = [self._inner(member[0] if isinstance(member, tuple) else member) for member in schema["choices"]]
        groups = [group for _, group in _by_step(problems)]
        if len(groups) != len(members):
            members = [{} for _ in groups]
        shape = _shape_of(data)
        tried = [(member, group) for member, group in zip(members, groups, strict=True)]
        fitting = [(member, group) for member, group in tried if self._shapes(member) & {shape, "anything"}]
        wanted = list(dict.fromkeys(self._description(member) for member in members if member))
        if not fitting and wanted:
            message = f"expected {' or '.join(wanted)}, found {what_is(data)}"
            return [_Found(path, "wrong-type", message)]
        readings = [self.read(member, group, data, path) for member, group in fitting or tried]
        if shape == "text" and len(readings) > 1:
            messages = dict.fromkeys(one.hint or one.message for reading in readings for one in reading)
            return [_Found(path, "wrong-value", f"{excerpt(data)} is not allowed here", "; ".join(messages))]
        best = min(readings, key=lambda reading: (sum(_is_stray(one, path) for one in reading), len(reading)))
        others = [self._description(member) for member, _ in tried if not self._shapes(member) & {shape, "anything"}]
        if shape == "text" and others and best[0].path == path:
            hint = "; ".join(part for part in (best[0].hint, f"or write {' or '.join(others)}") if part)
            best = [best[0]._replace(hint=hint), *best[1:]]
        return best

    def _worded(self, schema: Schema, details: ErrorDetails, data: Any, path: DocumentPath) -> _Found:
        """Word one error of one value."""
        kind = details["type"]
        value = data if isinstance(data, str | dict | list) else details["input"]
        if kind in ("union_tag_invalid", "union_tag_not_found"):
            return self._kind_worded(schema, details, value, path)
        code, message, hint = code_and_message(details, value)
        if code == "unknown-key" and isinstance(value, dict):
            for key in value:
                if message.startswith(repr(key)):
                    return _Found((*path, key), code, message, hint, key=True)
        return _Found(path, code, message, hint)

    def _kind_worded(self, schema: Schema, details: ErrorDetails, value: Any, path: DocumentPath) -> _Found:
        """Word that nothing, or nothing known, says which member of a tagged union a value is."""
        kinds = [str(tag) for tag in schema.get("choices", ())]
        by = schema.get("discriminator")
        if not isinstance(value, dict):
            return _Found(path, "wrong-type", f"expected a mapping, found {what_is(value)}")
        if isinstance(by, str):
            if by in value:
                written = value[by]
                message = f"unknown {by} {excerpt(written)}"
                return _Found((*path, by), f"unknown-{by}", message, suggestion(str(written), kinds, f"each {by}"))
            near = nearest(by, value)[:1]
            hint = f"did you mean {quoted([by])} in place of {quoted(near)}? " if near else ""
            message = f"missing key {excerpt(by)}"
            return _Found(path, "missing-key", message, f"{hint}it is one of: {quoted(kinds)}", key=True)
        known = {*kinds, *(key for choice in kinds for key in self._keys(self._inner(self._choice(schema, choice))))}
        found = f"found {quoted(map(str, value))}" if value else "the mapping is empty"
        for key in value:
            if key not in known and (near := nearest(str(key), kinds)[:1]):
                hint = f"did you mean {quoted(near)}? one of: {quoted(kinds)}"
                return _Found((*path, key), "unknown-kind", f"unknown key {excerpt(key)}", hint, key=True)
        message = f"no key says what this is: {found}"
        return _Found(path, "unknown-kind", message, f"one of: {quoted(kinds)}", key=True)

    def _inner(self, schema: Schema) -> Schema:
        """Take off what adds nothing to the way."""
        while True:
            kind = schema.get("type", "")
            if kind == "definitions":
                self._definitions.update({one["ref"]: one for one in schema["definitions"]})
            if kind == "definition-ref":
                schema = self._definitions.get(schema["schema_ref"], {})
            elif kind == "chain":
                schema = schema["steps"][0]
            elif kind in _WRAPPERS:
                schema = schema[_WRAPPERS[kind]]
            else:
                return schema

    def _choice(self, schema: Schema, tag: str | int) -> Schema:
        by_text: dict[str, Schema] = {str(one): choice for one, choice in schema["choices"].items()}
        return by_text.get(str(tag), {})

    def _keys(self, schema: Schema) -> list[str]:
        """List the keys that a mapping may have, as documents write them."""
        return list(self._fields(schema))

    def _fields(self, schema: Schema) -> dict[str, Schema]:
        fields = schema.get("fields", ()) if schema.get("type") in _FIELDS else ()
        named = fields.items() if isinstance(fields, Mapping) else ((field["name"], field) for field in fields)
        result: dict[str, Schema] = {}
        for name, field in named:
            alias = field.get("validation_alias", name)
            result[alias if isinstance(alias, str) else name] = field["schema"]
        return result

    def _part(self, schema: Schema, step: str | int) -> Schema:
        match schema.get("type", ""):
            case "dict":
                part: Schema = schema.get("values_schema", {})
            case "list" | "set" | "frozenset" | "generator":
                part = schema.get("items_schema", {})
            case "tuple":
                items = schema["items_schema"]
                part = items[min(int(step), len(items) - 1)] if items else {}
            case _:
                part = self._fields(schema).get(str(step)) or schema.get("extras_schema") or {}
        return part

    def _shapes(self, schema: Schema) -> set[str]:
        """The shapes of values that a schema can accept."""
        schema = self._inner(schema)
        kind = schema.get("type", "")
        if kind == "union":
            return set().union(*(self._shapes(one[0] if isinstance(one, tuple) else one) for one in schema["choices"]))
        if kind in _ANYTHING:
            return {"anything"}
        return {"mapping" if kind in _MAPPINGS else "list" if kind in _LISTS else "text"}

    def _description(self, schema: Schema) -> str:
        """Say what a member of a union wants."""
        schema = self._inner(schema)
        kind = schema.get("type", "")
        if kind == "literal":
            return quoted(str(one) for one in schema["expected"])
        if keys := self._keys(schema):
            return f"a mapping with {quoted(keys)}" if len(keys) <= 6 else "a mapping"
        return "a mapping" if kind in _MAPPINGS else "a list" if kind in _LISTS else "a text"


def _by_step(problems: Iterable[_Problem]) -> list[tuple[str | int, list[_Problem]]]:
    """Group problems by the next step of their ways, and take that step; members of unions come in their order."""
    grouped = groupby(problems, key=lambda problem: problem.way[0])
    return [(step, [_Problem(way[1:], details) for way, details in group]) for step, group in grouped]


def _has(data: Any, step: str | int) -> bool:
    if isinstance(data, dict):
        return step in data
    return isinstance(data, list) and isinstance(step, int) and 0 <= step < len(data)


def _shape_of(data: Any) -> str:
    return "mapping" if isinstance(data, dict) else "list" if isinstance(data, list) else "text"


def _is_stray(found: _Found, path: DocumentPath) -> bool:
    return found.code in _STRAY and len(found.path) <= len(path) + 1
