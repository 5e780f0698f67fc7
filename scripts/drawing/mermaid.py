"""A journey drawn as a Mermaid flowchart, for pages that draw those themselves: GitHub, GitLab, many wikis."""

from __future__ import annotations

from scripts.drawing.picture import Box, Picture

SHAPES = {"exit": ("([", "])"), "condition-split": ("{{", "}}"), "split-test": ("{{", "}}")}
"""How a kind's box is written; entries are rounded, all others are plain."""
TEXT_LIMIT = 120
"""Letters of a box's text: Mermaid cuts nothing by itself."""


def draw_mermaid(picture: Picture) -> str:
    """Draw a journey as a Mermaid flowchart.

    Args:
        picture: What to show.

    Returns:
        The text of the flowchart. All texts are escaped as entities, so that none is read as Mermaid, Markdown or HTML
        (Mermaid's page "Flowcharts", entity codes to escape characters). Boxes are numbered, since words such as
        `end` are no names in Mermaid.
    """
    numbers = {box.name: f"n{place}" for place, box in enumerate(picture.boxes)}
    lines = [*(f"%% {_escaped(line, kept=':')}" for line in (picture.heading, *picture.lines)), "flowchart TD"]
    for box in picture.boxes:
        opened, closed = ("([", "])") if box.entry else SHAPES.get(box.kind, ("[", "]"))
        lines.append(f'  {numbers[box.name]}{opened}"{_box_text(box)}"{closed}')
    for arrow in picture.arrows:
        label = f'|"{_escaped(arrow.words)}"|' if arrow.words else ""
        lines.append(f"  {numbers[arrow.source]} -->{label} {numbers[arrow.target]}")
    return "\n".join(lines) + "\n"


def _box_text(box: Box) -> str:
    text = box.text if len(box.text) <= TEXT_LIMIT else f"{box.text[: TEXT_LIMIT - 1]}…"
    users = f": {box.users:,}" if box.users is not None else ""
    parts = [box.title, f"{box.name}{users}", text, *(f"{what} {number}" for what, number in box.facts)]
    return "<br/>".join(_escaped(part) for part in parts if part)


def _escaped(text: str, kept: str = "") -> str:
    """Write every letter that could mean something as an entity, by its number; and a line break as a space."""
    return "".join(
        letter if letter.isalnum() or letter in " ,.()+=-_/%·…“”" + kept else f"#{ord(letter)};"
        for letter in " ".join(text.split())
        if letter.isprintable()
    )
