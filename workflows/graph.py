"""The graph of a journey: its faults, its routes, and the order in which users can visit it."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, PlainSerializer

from workflows.documents import JourneyDocument, ways_out
from workflows.errors import Fault
from workflows.wire import Lean

NEXT = "next"
"""The branch of an element that has one way out."""


def _spelled_out(to: Any) -> Any:
    return {NEXT: to} if isinstance(to, str) else to


def _in_short(to: dict[str, str]) -> str | dict[str, str]:
    return to[NEXT] if to.keys() == {NEXT} else to


class Route(Lean):
    """What a run needs to know of an element: its kind, and where its branches lead."""

    kind: str
    """The element's kind, such as `push`."""
    to: Annotated[dict[str, str], BeforeValidator(_spelled_out), PlainSerializer(_in_short)] = {}
    """Branch to the id of the element that follows; empty for an exit. In JSON the id alone stands for `{next: ID}`."""


def routes_of(document: JourneyDocument) -> dict[str, Route]:
    """Give the routes that a run carries: small, and free of texts and conditions.

    Args:
        document: A journey without faults.

    Returns:
        Element id to route.
    """
    return {name: Route(kind=element.kind, to=ways_out(element)) for name, element in document.elements.items()}


def says_the_same(before: BaseModel, after: BaseModel) -> bool:
    """Tell whether two elements do the same, wherever their branches lead.

    Args:
        before: An element of one version.
        after: An element of another.

    Returns:
        False when something else than the targets of branches differs: then a user who waits is asked anew.
    """
    return _without_targets(before) == _without_targets(after)


def _without_targets(element: BaseModel) -> dict[str, Any]:
    said = element.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"next"})
    said["branches"] = {
        name: {key: value for key, value in way.items() if key != "next"} if isinstance(way, dict) else None
        for name, way in said.get("branches", {}).items()
    }
    return said


def visiting_order(document: JourneyDocument) -> list[str]:
    """Sort the elements so that each comes after all that lead to it.

    Args:
        document: A journey without faults.

    Returns:
        Element ids.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter({name: [] for name in document.elements})
    for name, element in document.elements.items():
        for target in ways_out(element).values():
            sorter.add(target, name)
    return list(sorter.static_order())


def _edges(document: JourneyDocument) -> Iterator[tuple[str, str, str]]:
    """Yield (path of the target in the document, id of the source, id of the target)."""
    for section, parts in (("entries", document.entries), ("elements", document.elements)):
        for name, part in parts.items():
            for branch, target in ways_out(part).items():
                key = "next" if branch == "next" else f"branches.{branch}"
                yield f"{section}.{name}.{key}", name, target


def graph_faults(document: JourneyDocument) -> list[Fault]:
    """Find everything that is wrong with the graph.

    Args:
        document: A journey whose models are valid.

    Returns:
        Faults in document order, with paths and without files and lines.
    """
    faults: list[Fault] = []
    known = list(document.elements)
    for name in document.entries:
        if name in document.elements:
            faults.append(
                Fault(
                    code="duplicate-id",
                    path=f"elements.{name}",
                    message=f"{name!r} is the id of an entry too",
                    hint="entries and elements share one id space: rename one of them",
                )
            )
    leads_to: dict[str, list[str]] = {}
    for path, source, target in _edges(document):
        if target in document.elements:
            leads_to.setdefault(source, []).append(target)
            continue
        if target in document.entries:
            faults.append(
                Fault(
                    code="leads-to-entry",
                    path=path,
                    message=f"leads to {target!r}, which is an entry",
                    hint="a branch leads to an element; users come in by entries only",
                )
            )
            continue
        near = get_close_matches(target, known, n=1)
        faults.append(
            Fault(
                code="missing-target",
                path=path,
                message=f"leads to {target!r}, which is no element of this journey",
                hint=f"did you mean {near[0]!r}?" if near else f"add it, or use one of: {', '.join(known)}",
            )
        )
    reached = _reached(list(document.entries), leads_to)
    faults.extend(
        Fault(
            code="unreachable",
            path=f"elements.{name}",
            message=f"no path reaches {name!r}",
            hint="lead a branch to it, or remove it",
        )
        for name in document.elements
        if name not in reached
    )
    if loop := _loop(leads_to):
        faults.append(
            Fault(
                code="endless-path",
                path=f"elements.{loop[0]}",
                message=f"a path never ends: {' -> '.join(loop)}",
                hint="lead one of these branches to an exit; a user who shall pass again enters again",
            )
        )
    return faults


def _reached(starts: list[str], leads_to: dict[str, list[str]]) -> set[str]:
    """Give all that can be reached from some ids, those included."""
    reached: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(leads_to.get(name, ()))
    return reached


def _loop(leads_to: dict[str, list[str]]) -> list[str]:
    """Give one loop of the graph, from an id back to itself; empty when there is none."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for source, targets in leads_to.items():
        for target in targets:
            sorter.add(target, source)
    try:
        sorter.prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []
