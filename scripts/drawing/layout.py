"""Where boxes, labels and lines of a drawing stand: a layered layout of a graph without loops.

The method of Sugiyama, Tagawa and Toda ("Methods for Visual Understanding of Hierarchical System Structures", 1981):
layers, then the order within each, then the places. Boxes stand on even layers. The label of each arrow is a node of
its own on an odd layer, so that no label can overlap anything. An arrow that passes a layer of boxes has a lane there,
and all arrows to one box share its lanes: they flow together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import TypeAlias

GAP = 28.0
"""Least space between two neighbours of one layer."""
RISE = 22.0
"""Least space between two layers; more where lines have far to go sideways."""
SWEEPS = 24
"""Passes over all layers, of each kind: more of them changed no drawing of 30 elements."""

NodeKey: TypeAlias = tuple[str, str, int]
"""("box", its name, 0), ("label", "", the arrow's place in the list), or ("lane", the box it leads to, the layer)."""


@dataclass(frozen=True)
class Size:
    """Width and height, in pixels."""

    width: float
    height: float


@dataclass(frozen=True)
class Link:
    """An arrow between two boxes, and the size of its label."""

    source: str
    target: str
    label: Size = Size(0, 0)


@dataclass(frozen=True)
class Rect:
    """Where something stands: its centre, its upper edge, and its size, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        """The left edge."""
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        """The right edge."""
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.y + self.height

    def overlaps(self, other: Rect) -> bool:
        """Whether two places share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.y < other.bottom
            and other.y < self.bottom
            and min(self.width, other.width, self.height, other.height) > 0
        )


@dataclass(frozen=True)
class Stroke:
    """A piece of one or several arrows, from one layer to the next.

    Attributes:
        start: Where it starts.
        bend: Height down to which it runs straight, past taller boxes of its layer.
        end: Where it ends.
        arrows: The arrows that run through it, by their places in the list.
        pointed: Whether it ends at a box.
    """

    start: tuple[float, float]
    bend: float
    end: tuple[float, float]
    arrows: tuple[int, ...]
    pointed: bool


@dataclass(frozen=True)
class Arrangement:
    """A layout: the size of all, boxes by name, labels and strokes."""

    size: Size
    boxes: dict[str, Rect]
    labels: list[Rect]
    strokes: list[Stroke]


def arrange(boxes: Mapping[str, Size], links: Sequence[Link]) -> Arrangement:
    """Lay out a graph from top to bottom.

    Args:
        boxes: Sizes by name, in the order in which their author wrote them.
        links: Arrows, those out of one box in the order of its branches. They make no loop.

    Returns:
        Where everything stands. No two boxes, lanes or labels overlap.
    """
    graph = _layered(boxes, links)
    _order(graph)
    _place(graph)
    return _drawn(graph, links)


@dataclass
class _Graph:
    """Nodes in layers while the layout is worked out."""

    sizes: dict[NodeKey, Size] = field(default_factory=dict)
    layers: list[list[NodeKey]] = field(default_factory=list)
    above: dict[NodeKey, list[NodeKey]] = field(default_factory=lambda: defaultdict(list))
    below: dict[NodeKey, list[NodeKey]] = field(default_factory=lambda: defaultdict(list))
    arrows: dict[tuple[NodeKey, NodeKey], list[int]] = field(default_factory=lambda: defaultdict(list))
    x: dict[NodeKey, float] = field(default_factory=dict)

    def join(self, upper: NodeKey, lower: NodeKey, arrow: int) -> None:
        if (upper, lower) not in self.arrows:
            self.below[upper].append(lower)
            self.above[lower].append(upper)
        self.arrows[upper, lower].append(arrow)


def _ranks(boxes: Mapping[str, Size], links: Sequence[Link]) -> dict[str, int]:
    """Give each box its layer: below all that lead to it; a box that nothing leads to stands close to its target."""
    sources: dict[str, list[str]] = defaultdict(list)
    targets: dict[str, list[str]] = defaultdict(list)
    for link in links:
        sources[link.target].append(link.source)
        targets[link.source].append(link.target)
    found = dict.fromkeys(boxes, 0)
    for name in TopologicalSorter({name: sources[name] for name in boxes}).static_order():
        found[name] = max((found[source] + 2 for source in sources[name]), default=0)
    for name in boxes:
        if not sources[name] and targets[name]:
            found[name] = min(found[target] for target in targets[name]) - 2
    return found


def _layered(boxes: Mapping[str, Size], links: Sequence[Link]) -> _Graph:
    """Build the layers, with a label for each arrow and lanes past the layers between its ends."""
    ranks, graph = _ranks(boxes, links), _Graph()
    graph.layers = [[] for _ in range(max(ranks.values(), default=-1) + 1)]

    def node(key: NodeKey, layer: int, size: Size) -> NodeKey:
        if key not in graph.sizes:
            graph.sizes[key] = size
            graph.layers[layer].append(key)
        return key

    ways: dict[str, list[int]] = defaultdict(list)
    for place, link in enumerate(links):
        ways[link.source].append(place)
    # Depth first, so that the first order keeps what belongs together side by side.
    waiting, visited = list(boxes)[::-1], dict.fromkeys(boxes, False)
    while waiting:
        name = waiting.pop()
        if visited[name]:
            continue
        visited[name] = True
        node(("box", name, 0), ranks[name], boxes[name])
        for place in ways[name]:
            upper = node(("label", "", place), ranks[name] + 1, links[place].label)
            graph.join(("box", name, 0), upper, place)
            for layer in range(ranks[name] + 2, ranks[links[place].target]):
                lane = node(("lane", links[place].target, layer), layer, Size(0, 0))
                graph.join(upper, lane, place)
                upper = lane
            graph.join(upper, ("box", links[place].target, 0), place)
        waiting += [links[place].target for place in reversed(ways[name])]
    return graph


def _order(graph: _Graph) -> None:
    """Order each layer so that few lines cross: by the middle of a node's neighbours, over and over; keep the best."""
    best, fewest = [list(layer) for layer in graph.layers], _crossings(graph)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = graph.above if down else graph.below
        count = len(graph.layers)
        for layer in range(1, count) if down else range(count - 2, -1, -1):
            fixed = graph.layers[layer - 1 if down else layer + 1]
            places = {key: place for place, key in enumerate(fixed)}
            own = {key: float(place) for place, key in enumerate(graph.layers[layer])}
            middle = {
                key: sum(found) / len(found)
                if (found := [places[other] for other in neighbours[key] if other in places])
                else own[key]
                for key in own
            }
            graph.layers[layer].sort(key=middle.__getitem__)
        crossed = _crossings(graph)
        if crossed < fewest:
            best, fewest = [list(layer) for layer in graph.layers], crossed
    graph.layers = best
    while _swap_neighbours(graph):
        pass


def _swap_neighbours(graph: _Graph) -> bool:
    """Swap neighbours of a layer where that leaves fewer crossings; tell whether any were."""
    swapped = False
    places = {key: place for layer in graph.layers for place, key in enumerate(layer)}

    def crossed(left: NodeKey, right: NodeKey) -> int:
        sides = (graph.above, graph.below)
        return sum(places[one] > places[two] for side in sides for one in side[left] for two in side[right])

    for layer in graph.layers:
        for place in range(len(layer) - 1):
            left, right = layer[place], layer[place + 1]
            if crossed(left, right) > crossed(right, left):
                layer[place : place + 2] = right, left
                places[left], places[right] = places[right], places[left]
                swapped = True
    return swapped


def _crossings(graph: _Graph) -> int:
    """Count the pairs of lines that cross."""
    total = 0
    for upper, lower in pairwise(graph.layers):
        place = {key: number for number, key in enumerate(lower)}
        ends = [sorted(place[other] for other in graph.below[key]) for key in upper]
        flat = [end for group in ends for end in group]
        total += sum(flat[i] > flat[j] for i in range(len(flat)) for j in range(i + 1, len(flat)))
    return total


def _place(graph: _Graph) -> None:
    """Choose the horizontal places: each node near its neighbours, and none too near the next one in its layer."""
    for layer in graph.layers:
        edge = 0.0
        for key in layer:
            graph.x[key] = edge + graph.sizes[key].width / 2
            edge += graph.sizes[key].width + GAP
    for sweep in range(2 * SWEEPS):
        for layer in graph.layers if sweep % 2 == 0 else reversed(graph.layers):
            _pull(graph, layer)
    for _ in range(3):
        for layer in graph.layers:
            for place, key in enumerate(layer):
                _straighten(graph, key, *_limits(graph, layer, place))
        _straighten_lanes(graph)
    least = min((graph.x[key] - graph.sizes[key].width / 2 for key in graph.x), default=0.0)
    for key in graph.x:
        graph.x[key] -= least


def _pull(graph: _Graph, layer: list[NodeKey]) -> None:
    """Move the nodes of a layer to where their neighbours are, as near as they can keep apart."""
    wanted: list[float] = []
    weights: list[float] = []
    for key in layer:
        near = [(graph.x[other], _weight(key, other)) for other in (*graph.above[key], *graph.below[key])]
        weight = sum(share for _, share in near)
        wanted.append(sum(x * share for x, share in near) / weight if near else graph.x[key])
        weights.append(weight or 1.0)
    for key, x in zip(layer, _apart(graph, layer, wanted, weights), strict=True):
        graph.x[key] = x


def _weight(key: NodeKey, other: NodeKey) -> float:
    """Say how much two neighbours want to stand above each other: lanes most, since a bend of them shows most."""
    kinds = {key[0], other[0]}
    return 60.0 if kinds == {"lane"} else 2.0 if "lane" in kinds else 1.0


def _room(graph: _Graph, left: NodeKey, right: NodeKey) -> float:
    """Give the least distance of the centres of two neighbours of a layer."""
    return (graph.sizes[left].width + graph.sizes[right].width) / 2 + GAP


def _apart(graph: _Graph, layer: list[NodeKey], wanted: list[float], weights: list[float]) -> list[float]:
    """Give the places nearest to those wanted that keep the distances: pool neighbours that come too close."""
    offset, offsets = 0.0, [0.0]
    for left, right in pairwise(layer):
        offset += _room(graph, left, right)
        offsets.append(offset)
    blocks: list[tuple[float, float, int]] = []  # mean of what is wanted less the offsets, weight, nodes
    for x, weight, shift in zip(wanted, weights, offsets, strict=False):
        mean, total, nodes = x - shift, weight, 1
        while blocks and blocks[-1][0] > mean:
            other, share, more = blocks.pop()
            mean = (mean * total + other * share) / (total + share)
            total, nodes = total + share, nodes + more
        blocks.append((mean, total, nodes))
    means = [mean for mean, _, nodes in blocks for _ in range(nodes)]
    return [mean + shift for mean, shift in zip(means, offsets, strict=False)]


def _limits(graph: _Graph, layer: list[NodeKey], place: int) -> tuple[float, float]:
    """Give the horizontal places that a node can take without coming too near its neighbours."""
    key, last = layer[place], place == len(layer) - 1
    least = graph.x[layer[place - 1]] + _room(graph, layer[place - 1], key) if place else float("-inf")
    most = float("inf") if last else graph.x[layer[place + 1]] - _room(graph, key, layer[place + 1])
    return least, most


def _straighten(graph: _Graph, key: NodeKey, least: float, most: float) -> None:
    """Put a node exactly below or above a neighbour that it nearly stands at, where its layer has the room."""
    for neighbours in (graph.above[key], graph.below[key]):
        near = min((graph.x[other] for other in neighbours), key=lambda x: abs(x - graph.x[key]), default=None)
        if near is not None and abs(near - graph.x[key]) < GAP and least <= near <= most:
            graph.x[key] = near
            return


def _straighten_lanes(graph: _Graph) -> None:
    """Run the lanes that lead to one box straight down, for as many layers as have the room."""
    lanes: dict[str, list[tuple[list[NodeKey], int]]] = defaultdict(list)
    for layer in graph.layers:
        for place, key in enumerate(layer):
            if key[0] == "lane":
                lanes[key[1]].append((layer, place))
    for own in lanes.values():  # one box after the other, since each moves what limits the next
        run: list[NodeKey] = []
        low, high = float("-inf"), float("inf")
        for layer, place in own:
            least, most = _limits(graph, layer, place)
            if run and max(least, low) > min(most, high):
                _line_up(graph, run, low, high)
                run, low, high = [], float("-inf"), float("inf")
            run.append(layer[place])
            low, high = max(least, low), min(most, high)
        _line_up(graph, run, low, high)


def _line_up(graph: _Graph, keys: list[NodeKey], low: float, high: float) -> None:
    """Put nodes above each other, as near to where most of them are as the limits allow."""
    middle = sorted(graph.x[key] for key in keys)[len(keys) // 2]
    for key in keys:
        graph.x[key] = min(max(middle, low), high)


def _drawn(graph: _Graph, links: Sequence[Link]) -> Arrangement:
    """Choose the heights, and give everything its place."""
    tops: list[float] = []
    bottoms: list[float] = []
    edge = 0.0
    for number, layer in enumerate(graph.layers):
        if number:
            far = max(
                (abs(graph.x[upper] - graph.x[lower]) for lower in layer for upper in graph.above[lower]), default=0.0
            )
            edge += RISE + min(34.0, far / 12)
        tops.append(edge)
        edge += max((graph.sizes[key].height for key in layer), default=0.0)
        bottoms.append(edge)
    layer_of = {key: number for number, layer in enumerate(graph.layers) for key in layer}

    def rect(key: NodeKey) -> Rect:
        number, size = layer_of[key], graph.sizes[key]
        height = bottoms[number] - tops[number] if key[0] == "lane" else size.height
        return Rect(graph.x[key], tops[number], size.width, height)

    leaves = _ports(graph, graph.below, rect)
    arrives = _ports(graph, graph.above, rect)
    strokes = [
        Stroke(
            start=(leaves[upper, lower], rect(upper).bottom if upper[0] == "box" else rect(upper).y),
            bend=bottoms[layer_of[upper]],
            end=(arrives[lower, upper], tops[layer_of[lower]]),
            arrows=tuple(arrows),
            pointed=lower[0] == "box",
        )
        for (upper, lower), arrows in graph.arrows.items()
    ]
    width = max((graph.x[key] + graph.sizes[key].width / 2 for key in graph.x), default=0.0)
    return Arrangement(
        size=Size(width, edge),
        boxes={name: rect((kind, name, place)) for kind, name, place in graph.x if kind == "box"},
        labels=[rect(("label", "", place)) for place in range(len(links))],
        strokes=strokes,
    )


def _ports(
    graph: _Graph, neighbours: Mapping[NodeKey, list[NodeKey]], rect: Callable[[NodeKey], Rect]
) -> dict[tuple[NodeKey, NodeKey], float]:
    """Spread the lines of each box along its edge, in the order of where they lead; those of others meet in the middle.

    Returns:
        The horizontal place for each (node, neighbour).
    """
    found: dict[tuple[NodeKey, NodeKey], float] = {}
    for key in graph.x:
        others = sorted(neighbours[key], key=graph.x.__getitem__) if key in neighbours else []
        step = min(36.0, rect(key).width / (len(others) + 1)) if key[0] == "box" else 0.0
        for place, other in enumerate(others):
            found[key, other] = graph.x[key] + (place - (len(others) - 1) / 2) * step
    return found
