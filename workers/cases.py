"""Cases: users with what they do and where they have to end, in a file, each rehearsed and held against that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from activities.documents.reading import faults_of, read_documents
from activities.tables.inference import infer, read_as
from workers.documents import is_file
from workers.engine import Engine
from workers.rehearsal import rehearse
from workers.rehearsed import Given, GivenEvent, GivenUser, Rehearsal, RehearsedPush
from workers.stage import open_stage
from workflows.errors import DefinitionError, JourneyError, RefusedError


class ExpectedPush(Given):
    """One message; what is left out may be anything."""

    element: str | None = None
    device_id: str | None = None
    provider: str | None = None
    title: str | None = None
    body: str | None = None


class Expected(Given):
    """How a case has to end; what is left out may be anything."""

    enters: bool = True
    """Whether the user comes in at all."""
    path: list[str | dict[str, str]] | None = None
    """The elements in order, the exit left out: each a name, or `NAME: BRANCH`."""
    exit: str | None = None
    """The exit element."""
    reason: str | None = None
    """`end` at an exit; why the user left earlier, or did not come in."""
    pushes: list[ExpectedPush] | None = None
    """Every message to every device, in order; `[]` for none."""


class Case(GivenUser):
    """One user and his way."""

    entry: str = ""
    """The entry; left out: the one that the first event sets off, else the first."""
    values: dict[str, Any] = Field(default_factory=dict)
    """What an API entry is given."""
    anyway: bool = False
    """Whether a user who is not in the audience comes in all the same."""
    events: list[GivenEvent] = Field(default_factory=list)
    """What the user does, in order."""
    expect: Expected
    """How it has to end."""


class CaseFile(BaseModel):
    """A file of cases."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    journey: str
    """A saved journey as `NAME` or `NAME@3`, or a file, found from the folder of this one."""
    cases: Annotated[dict[str, Case], Field(min_length=1)]
    """The cases by name."""


class CaseResult(BaseModel):
    """What became of one case."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    case: str
    ok: bool
    differences: list[str] = []
    """What is not as expected, one line each."""
    rehearsal: Rehearsal | None = None
    """How the user passed; null where it could not be rehearsed."""


class CasesReport(BaseModel):
    """What became of a file of cases."""

    model_config = ConfigDict(frozen=True)

    file: str
    journey: str
    ok: bool
    cases: list[CaseResult]


def read_cases(path: Path) -> CaseFile:
    """Read a file of cases: YAML or JSON, all scalars text, as in documents.

    Args:
        path: The file.

    Returns:
        The cases. Values of events are numbers and booleans where they read so, as in a CSV file.

    Raises:
        DefinitionError: With every fault and its place.
        RefusedError: The file does not hold one document.
    """
    raws = read_documents(path)
    if len(raws) != 1 or raws[0].kind != "journey":
        raise RefusedError(
            f"{str(path)!r} holds {len(raws)} documents: a file of cases is one, with the keys `journey` and `cases`",
            code="no-cases",
        )
    raw = raws[0]
    try:
        found = CaseFile.model_validate(raw.data)
    except ValidationError as error:
        raise DefinitionError(faults_of(error, raw, CaseFile)) from None
    if is_file(found.journey):
        found = found.model_copy(update={"journey": str(path.parent / found.journey)})
    return found


def natural(value: Any) -> Any:
    """Read a text as JSON would hold it: `20` is a number, `20 EUR` a text; as for a cell of a CSV file."""
    if isinstance(value, list):
        return [str(one) for one in value]
    if not isinstance(value, str):
        return value
    column = pl.Series("value", [value], dtype=pl.String)
    kind = infer(column)
    return read_as(column, kind).item() if kind in ("integer", "number", "boolean") else value


async def run_cases(engine: Engine, path: Path, only: str | None = None) -> CasesReport:
    """Rehearse the cases of a file, one after the other, on one server.

    Args:
        engine: The real stores, which are only read.
        path: The file.
        only: The one case to rehearse; null for all.

    Returns:
        What became of each.

    Raises:
        DefinitionError: The file has faults.
        RefusedError: It has no such case.
        NoServer: The server did not start.
    """
    found = read_cases(path)
    if only is not None and only not in found.cases:
        raise RefusedError(f"{str(path)!r} has no case {only!r}; it has: {', '.join(found.cases)}", code="no-case")
    results = []
    async with open_stage(engine.settings) as stage:
        for name, case in found.cases.items():
            if only in (None, name):
                try:
                    rehearsal = await rehearse(
                        stage,
                        engine,
                        found.journey,
                        case,
                        [_typed(event) for event in case.events],
                        entry=case.entry,
                        values={key: natural(value) for key, value in case.values.items()},
                        anyway=case.anyway,
                    )
                except DefinitionError:
                    raise
                except JourneyError as error:
                    results.append(CaseResult(case=name, ok=False, differences=[str(one) for one in error.faults]))
                    continue
                differences = list(_differences(case.expect, rehearsal))
                results.append(CaseResult(case=name, ok=not differences, differences=differences, rehearsal=rehearsal))
    return CasesReport(file=str(path), journey=found.journey, ok=all(result.ok for result in results), cases=results)


def _typed(event: GivenEvent) -> GivenEvent:
    return event.model_copy(update={"properties": {name: natural(value) for name, value in event.properties.items()}})


def _differences(expected: Expected, found: Rehearsal) -> Iterator[str]:
    """Word what is not as expected."""
    if expected.enters != found.admitted:
        yield f"enters: expected {str(expected.enters).lower()}, and the user {_came_in(found)}"
        return
    if expected.path is not None and not _is_path(expected.path, found):
        wanted = ", ".join(_step(one) for one in expected.path) or "no element"
        yield f"path: expected {wanted}; it was {_path(found) or 'no element'}"
    for name in ("exit", "reason"):
        wanted, was = getattr(expected, name), getattr(found, name)
        if wanted is not None and wanted != was:
            yield f"{name}: expected {wanted!r}; it was {was!r}"
    if expected.pushes is not None:
        yield from _push_differences(expected.pushes, found.pushes)


def _came_in(found: Rehearsal) -> str:
    return "came in" if found.admitted else f"did not come in: {found.reason}"


def _is_path(expected: list[str | dict[str, str]], found: Rehearsal) -> bool:
    steps = [(step.element, step.branch) for step in found.steps]
    if len(steps) != len(expected):
        return False
    return all(
        one == element if isinstance(one, str) else one == {element: branch}
        for one, (element, branch) in zip(expected, steps, strict=True)
    )


def _step(one: str | dict[str, str]) -> str:
    return one if isinstance(one, str) else ", ".join(f"{element}: {branch}" for element, branch in one.items())


def _path(found: Rehearsal) -> str:
    return ", ".join(f"{step.element}: {step.branch}" for step in found.steps)


def _push_differences(expected: list[ExpectedPush], found: list[RehearsedPush]) -> Iterator[str]:
    if len(expected) != len(found):
        titles = ", ".join(f"{one.element} {one.title!r} to {one.device_id}" for one in found) or "none"
        yield f"pushes: expected {len(expected)}; there were {len(found)}: {titles}"
        return
    for place, (wanted, was) in enumerate(zip(expected, found, strict=True)):
        for name, value in wanted.model_dump(exclude_none=True).items():
            if value != getattr(was, name):
                yield f"pushes[{place}].{name}: expected {value!r}; it was {getattr(was, name)!r}"
