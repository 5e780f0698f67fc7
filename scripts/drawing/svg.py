"""A journey drawn as SVG 1.1: one file without scripts or fonts of its own, readable on light and dark pages.

Text is measured without its font, so widths are estimates on the wide side; what is longer than its box is cut, and
whole in the box's tooltip.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from scripts.drawing.layout import Arrangement, Link, Rect, Size, Stroke, arrange
from scripts.drawing.picture import Arrow, Box, Picture

MARGIN, PAD, LINE = 28.0, 12.0, 17.0
WIDEST, NARROWEST = 290.0, 168.0
LABEL_HEIGHT = 22.0
ARROWHEAD = 8.0

HUES = {
    "exit": "slate",
    "push": "blue",
    "condition-split": "violet",
    "split-test": "violet",
    "reachability-check": "violet",
    "time-delay": "amber",
    "wait-for-trigger": "amber",
}
"""The colour of a kind's edge; entries are green, and kinds that are not named here teal."""

STYLE = """
text { font-family: "Inter", "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif; fill: #1b2430 }
.page { fill: #ffffff; stroke: #d9dfe7 }
.heading { font-size: 18px; font-weight: 600 }
.note, .kind, .text, .fact { font-size: 12px; fill: #566273 }
.kind { font-size: 11px; letter-spacing: .3px }
.name, .users { font-size: 14px; font-weight: 600 }
.fact { fill: #303b49 }
.figure { text-anchor: end }
.box { fill: #f8fafc; stroke: #c3ccd8 }
.rule { stroke: #dfe5ec }
.line { fill: none; stroke: #8693a5; stroke-linecap: round }
.nobody { stroke-dasharray: 4 4 }
.point { fill: #8693a5 }
.label { fill: #eaeff5; stroke: #c9d2dd }
.words { font-size: 12px; text-anchor: middle }
.green { fill: #1f9d61 } .blue { fill: #2f6fde } .violet { fill: #8250df } .amber { fill: #c77d0a }
.teal { fill: #128a93 } .slate { fill: #7a8696 }
@media (prefers-color-scheme: dark) {
  text { fill: #e8edf3 }
  .page { fill: #12171e; stroke: #2b3440 }
  .note, .kind, .text { fill: #9fabba }
  .fact { fill: #c9d2dc }
  .box { fill: #1b222c; stroke: #3d4856 }
  .rule { stroke: #303a46 }
  .line { stroke: #7b899b }
  .point { fill: #7b899b }
  .label { fill: #28323e; stroke: #46525f }
  .green { fill: #3fb97c } .blue { fill: #5b93f5 } .violet { fill: #a884f3 } .amber { fill: #e0a03a }
  .teal { fill: #35b3bc } .slate { fill: #8b97a7 }
}
"""

_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot hold, even escaped (XML 1.0, section 2.2)."""
_NARROW, _MIDDLING, _BROAD = frozenset("ijlI.,:;|'!"), frozenset('ftr()[]-/ "*`'), frozenset("mwMW@%—…")


def draw_svg(picture: Picture) -> str:
    """Draw a journey as SVG.

    Args:
        picture: What to show.

    Returns:
        An XML document. All texts are escaped.
    """
    bodies = {box.name: _body(box) for box in picture.boxes}
    links = [Link(arrow.source, arrow.target, _label_size(arrow.words)) for arrow in picture.arrows]
    found = arrange({name: _box_size(box, bodies[name]) for name, box in _by_name(picture).items()}, links)
    heading = [_shortened(picture.heading, 640, 18 / 12), *picture.lines]
    top = MARGIN + 24 + len(picture.lines) * LINE + 14
    inner = max(found.size.width, *(_width(line, 18 / 12 if not place else 1) for place, line in enumerate(heading)))
    width, height = inner + 2 * MARGIN, found.size.height + top + MARGIN
    root = Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "viewBox": f"0 0 {width:.0f} {height:.0f}"},
        width=f"{width:.0f}",
        height=f"{height:.0f}",
    )
    SubElement(root, "title").text = _clean(picture.heading)
    SubElement(root, "style").text = STYLE
    _rect(root, Rect(width / 2, 0.5, width - 1, height - 1), "page", 10)
    _text(root, MARGIN, MARGIN + 14, heading[0], "heading")
    for place, line in enumerate(picture.lines):
        _text(root, MARGIN, MARGIN + 38 + place * LINE, line, "note")
    stage = SubElement(root, "g", transform=f"translate({(width - found.size.width) / 2:.1f} {top:.1f})")
    _strokes(stage, picture, found)
    for arrow, label in zip(picture.arrows, found.labels, strict=True):
        if arrow.words:
            _rect(stage, label, "label", LABEL_HEIGHT / 2)
            _text(stage, label.x, label.y + 15, arrow.words, "words")
    for box in picture.boxes:
        _box(stage, box, bodies[box.name], found.boxes[box.name])
    indent(root, " ")
    return tostring(root, encoding="unicode") + "\n"


def _by_name(picture: Picture) -> dict[str, Box]:
    return {box.name: box for box in picture.boxes}


def _strokes(stage: Element, picture: Picture, found: Arrangement) -> None:
    """Draw the lines, each as broad as the share of users who went there; first those that nobody took."""
    marked = [(stroke, _users(stroke, picture.arrows)) for stroke in found.strokes]
    for stroke, users in sorted(marked, key=lambda one: one[1] or 0):
        (x, y), (end_x, end_y) = stroke.start, stroke.end
        if stroke.pointed:
            tip, end_y = end_y, end_y - ARROWHEAD + 1
            corners = f"{end_x - 4.5:.1f},{end_y - 1:.1f} {end_x + 4.5:.1f},{end_y - 1:.1f} {end_x:.1f},{tip:.1f}"
            SubElement(stage, "polygon", {"class": "point", "points": corners})
        middle = (stroke.bend + end_y) / 2
        curve = (
            f"M{x:.1f} {y:.1f}V{stroke.bend:.1f}C{x:.1f} {middle:.1f} {end_x:.1f} {middle:.1f} {end_x:.1f} {end_y:.1f}"
        )
        broad = 1.5 + 4.5 * (users / picture.entered if users and picture.entered else 0)
        classes = "line nobody" if users == 0 else "line"
        SubElement(stage, "path", {"class": classes, "d": curve, "stroke-width": f"{broad:.1f}"})


def _users(stroke: Stroke, arrows: Sequence[Arrow]) -> int | None:
    """Count the users of a line; null where nothing was counted."""
    counted = [users for place in stroke.arrows if (users := arrows[place].users) is not None]
    return sum(counted) if counted else None


def _body(box: Box) -> list[str]:
    """Give the lines under a box's name: what it does, on two lines at most."""
    room, lines, line = WIDEST - 2 * PAD - 6, [], ""
    for word in _clean(box.text).split():
        grown = f"{line} {word}" if line else word
        if line and _width(grown) > room:
            lines.append(line)
            grown = word
        line = grown
    lines += [line] if line else []
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1]} …"]
    return [_shortened(line, room) for line in lines]


def _box_size(box: Box, body: list[str]) -> Size:
    numbers = [_width(_facts_text(*fact)) + 16 for fact in box.facts]
    head = _width(box.name, 14 / 12) + (_width(f"{box.users:,}", 14 / 12) + 24 if box.users is not None else 0)
    widest = max(head, _width(box.title, 11 / 12) + 10, *map(_width, body), *numbers, 0)
    facts = len(box.facts) * LINE + (9 if box.facts else 0)
    height = 2 * PAD + 32 + len(body) * (LINE - 1) + facts
    return Size(min(WIDEST, max(NARROWEST, widest + 2 * PAD + 6)), height)


def _facts_text(what: str, number: str) -> str:
    return f"{what} {number}"


def _label_size(words: str) -> Size:
    return Size(_width(words) + 22, LABEL_HEIGHT) if words else Size(0, 0)


def _box(stage: Element, box: Box, body: list[str], place: Rect) -> None:
    group = SubElement(stage, "g", id=f"element-{box.name}")
    SubElement(group, "title").text = _clean(f"{box.title}: {box.name}" + (f"\n{box.text}" if box.text else ""))
    _rect(group, place, "box", 8)
    hue = "green" if box.entry else HUES.get(box.kind, "teal")
    _rect(group, Rect(place.left + 5.5, place.y + 8, 4, place.height - 16), hue, 2)
    left, right = place.left + PAD + 6, place.right - PAD
    room = right - left
    users = f"{box.users:,}" if box.users is not None else ""
    y = place.y + PAD + 9
    _text(group, left, y, box.title, "kind")
    y += LINE + 1
    _text(group, left, y, _shortened(box.name, room - _width(users, 14 / 12) - (14 if users else 0), 14 / 12), "name")
    if users:
        _text(group, right, y, users, "users figure")
    for line in body:
        y += LINE - 1
        _text(group, left, y, line, "text")
    if box.facts:
        y += 9
        SubElement(group, "path", {"class": "rule", "d": f"M{left:.1f} {y:.1f}H{right:.1f}"})
        for what, number in box.facts:
            y += LINE
            _text(group, left, y - 1, _shortened(what, room - _width(number) - 8), "fact")
            _text(group, right, y - 1, number, "fact figure")


def _rect(parent: Element, place: Rect, classes: str, radius: float) -> None:
    SubElement(
        parent,
        "rect",
        {"class": classes, "rx": f"{radius:g}"},
        x=f"{place.left:.1f}",
        y=f"{place.y:.1f}",
        width=f"{place.width:.1f}",
        height=f"{place.height:.1f}",
    )


def _text(parent: Element, x: float, y: float, text: str, classes: str) -> None:
    SubElement(parent, "text", {"class": classes}, x=f"{x:.1f}", y=f"{y:.1f}").text = _clean(text)


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("�", text)


def _width(text: str, scale: float = 1.0) -> float:
    """Estimate the width of a text of 12 pixels, in pixels: by classes of letters, as of Helvetica, and 5 % more."""
    return 12 * 1.05 * scale * sum(map(_units, text))


def _units(letter: str) -> float:
    if letter in _NARROW:
        return 0.28
    if letter in _MIDDLING:
        return 0.36
    if letter in _BROAD:
        return 0.9
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.1
    return 0.7 if letter.isupper() else 0.56 if ord(letter) < 0x250 else 0.75


def _shortened(text: str, room: float, scale: float = 1.0) -> str:
    """Cut a text to a width, with an ellipsis."""
    if _width(text, scale) <= room:
        return text
    while text and _width(f"{text}…", scale) > room:
        text = text[:-1]
    return f"{text.rstrip()}…"
