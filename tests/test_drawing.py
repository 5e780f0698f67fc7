"""A drawn journey says every number, overlaps nothing, and shows hostile texts as texts."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from itertools import combinations
from xml.etree import ElementTree

import pytest

from scripts.drawing.layout import Arrangement, Link, Size, arrange
from scripts.drawing.mermaid import draw_mermaid
from scripts.drawing.picture import picture_of
from scripts.drawing.svg import draw_svg
from workflows.contracts import ElementStats, Stats
from workflows.documents import JourneyDocument

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('1')</script> & \"q\" `md` **b** #35; %%{init: {}}%% end --> ]) }} |x| ]]> \x00\x1b 日本 👋"


def journey(title: str = "", message: str = "Merci") -> JourneyDocument:
    return JourneyDocument.model_validate(
        {
            "journey": "hello",
            "title": title,
            "entries": {"start": {"kind": "audience-entry", "audience": {"segment": "paying"}, "next": "loyal"}},
            "elements": {
                "loyal": {
                    "kind": "condition-split",
                    "match": {"attribute": "age", "at_least": "18"},
                    "branches": {"users_in_segment": "promo", "all_other_users": "end"},
                },
                "promo": {
                    "kind": "push",
                    "message": {"title": message, "body": "-20 %"},
                    "branches": {"accepted": "end", "not_accepted": "end"},
                },
                "end": {"kind": "exit"},
            },
        }
    )


STATS = Stats(
    **{"journey": "hello", "version": 3, "state": "running", "as_of": datetime(2026, 11, 1, tzinfo=UTC)},
    **{"audience": 5_111, "entered": 5_000, "inside": 7, "exited": {"end": 4_990, "terminated": 3}},
    refused={"entered-before": 111},
    entries={"start": 5_000},
    elements={
        "loyal": ElementStats(arrived=5_000, branches={"users_in_segment": 1_234, "all_other_users": 3_766}),
        "promo": ElementStats(
            arrived=1_234,
            inside=7,
            branches={"accepted": 1_000, "not_accepted": 224},
            left={"terminated": 3},
            users={"accepted": 1_000, "skipped: no-reachable-device": 224},
            devices={"accepted": 1_501, "token-dead": 12},
        ),
        "end": ElementStats(arrived=4_990, left={"end": 4_990}),
    },
)
NUMBERS = (
    *("5,111", "111", "5,000", "Users in a segment: 1,234 (25%)", "All other users: 3,766 (75%)"),
    *("Accepted: 1,000 (81%)", "Not accepted: 224 (18%)", "1,000 on 1,501 devices", "12 devices", "4,990"),
)
REASONS = ("refused: entered-before", "skipped: no-reachable-device", "still here", "left: terminated", "left: end")


def texts(svg: str) -> list[str]:
    """The texts that a drawing shows; that it can be read at all proves it well-formed."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314  our own


def unescaped(mermaid: str) -> str:
    return re.sub(r"#(\d+);", lambda found: chr(int(found[1])), mermaid)


def test_every_number_and_reason_is_drawn() -> None:
    """Each branch has its label, number and share; each element who arrived, and why users left; in both forms."""
    picture = picture_of(journey("Thank them"), STATS, 3)
    svg, mermaid = draw_svg(picture), unescaped(draw_mermaid(picture))
    shown = texts(svg)
    assert shown[0] == "Thank them · hello v3"
    assert "audience 5,111 = entered 5,000 + refused 111 (entered-before 111)" in shown
    for wanted in (*NUMBERS, *REASONS, "Condition split", "Push", "Exit", "Audience entry", "age at least 18"):
        assert wanted in shown, wanted
        assert wanted in mermaid, wanted
    assert mermaid.count("-->") == 5


def test_without_numbers_the_labels_stand_alone() -> None:
    """A journey that is drawn without numbers shows its elements and its branches, and no digit of a count."""
    picture = picture_of(journey())
    shown = texts(draw_svg(picture))
    assert {"Users in a segment", "All other users", "Accepted", "Not accepted"} <= set(shown)
    assert not any(re.search(r"\d", text) for text in shown if text not in ("age at least 18",))
    assert '-->|"Users in a segment"|' in draw_mermaid(picture)
    assert "n0 --> n1" in draw_mermaid(picture)


def test_hostile_texts_stay_texts() -> None:
    """Tags, quotes, entities, control characters and the marks of Mermaid in a title are shown, never obeyed."""
    picture = picture_of(journey(HOSTILE, HOSTILE), STATS)
    svg = draw_svg(picture)
    root = ElementTree.fromstring(svg)  # noqa: S314  our own
    allowed = {"svg", "title", "style", "g", "rect", "path", "polygon", "text"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == allowed
    assert texts(svg)[0].startswith("<script>alert('1')</script> & \"q\"")
    mermaid = draw_mermaid(picture)
    for line in mermaid.splitlines():
        inner = re.fullmatch(r'  n\d+(?:\(\[|\{\{|\[)"([^"]*)"(?:\]\)|\}\}|\])', line)
        if inner:
            bare = re.sub(r"#\d+;", "", inner[1].replace("<br/>", ""))
            assert not set(bare) & set("<>\"'`*#;&{}[]|\\!:\x00\x1b"), line
        else:
            assert re.fullmatch(r'%% [^{}<>"]*|flowchart TD|  n\d+ -->(\|"[^"<>|]*"\|)? n\d+', line), line
    assert "<script>alert('1')</script> & \"q\"" in unescaped(mermaid)


def random_graph(seed: int, boxes: int) -> tuple[dict[str, Size], list[Link]]:
    """A graph without loops in which each box but the last leads on by one to three arrows."""
    chance = random.Random(seed)
    sizes = {f"e{number}": Size(chance.randint(150, 300), chance.randint(60, 180)) for number in range(boxes)}
    links = [
        Link(
            f"e{number}", f"e{chance.randint(number + 1, min(boxes - 1, number + 9))}", Size(chance.randint(0, 200), 22)
        )
        for number in range(boxes - 1)
        for _ in range(chance.randint(1, 3))
    ]
    return sizes, links


def curve(found: Arrangement, place: int) -> list[tuple[float, float]]:
    """Points along a stroke as the SVG draws it: straight down to its bend, then a Bézier curve."""
    stroke = found.strokes[place]
    (x, y), (end_x, end_y), bend = stroke.start, stroke.end, stroke.bend
    middle, points = (bend + end_y) / 2, [(x, y + (bend - y) * step / 8) for step in range(9)]
    for step in range(1, 16):
        t = step / 16
        a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        points.append((a * x + b * x + c * end_x + d * end_x, a * bend + b * middle + c * middle + d * end_y))
    return points


@pytest.mark.parametrize("seed", range(12))
def test_nothing_overlaps(seed: int) -> None:
    """In random graphs of 30 boxes no two boxes or labels overlap, no line runs through a box, every arrow arrives."""
    sizes, links = random_graph(seed, 30)
    found = arrange(sizes, links)
    places = [*found.boxes.values(), *found.labels]
    assert [pair for pair in combinations(places, 2) if pair[0].overlaps(pair[1])] == []
    assert all(place.left >= -0.01 and place.right <= found.size.width + 0.01 for place in places)
    assert all(place.bottom <= found.size.height + 0.01 for place in places)
    for number in range(len(found.strokes)):
        for x, y in curve(found, number):
            inside = [box for box in found.boxes.values() if box.left < x < box.right and box.y < y < box.bottom]
            assert inside == [], (number, x, y)
    arrived: dict[int, int] = {}
    for stroke in found.strokes:
        for arrow in stroke.arrows if stroke.pointed else ():
            box = found.boxes[links[arrow].target]
            assert box.left <= stroke.end[0] <= box.right
            assert stroke.end[1] == box.y
            arrived[arrow] = arrived.get(arrow, 0) + 1
    assert arrived == dict.fromkeys(range(len(links)), 1)


def test_a_long_text_is_cut_and_whole_in_its_tooltip() -> None:
    """A text that is longer than its box ends in an ellipsis; its tooltip has all of it."""
    svg = draw_svg(picture_of(journey("T", "W" * 200), STATS))
    assert any(text.endswith("…") for text in texts(svg))
    assert max(map(len, texts(svg))) < 200
    root = ElementTree.fromstring(svg)  # noqa: S314  our own
    assert any("W" * 200 in (title.text or "") for title in root.iter(f"{SVG}title"))
