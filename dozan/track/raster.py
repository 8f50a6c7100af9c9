"""SVG to PNG for what `dozan.html.charts` draws, and that alone: paths of M, L, H, V, v and Z, texts, circles, boxes.

Trackers take pixels. Pillow comes with those that do, so no drawing library is needed for it.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as xml

from PIL import Image, ImageDraw, ImageFont

_SCALE, _SIZE = 3, 12
"""Drawn at three times its size, kept at one and a half, which smooths the lines."""
_PAPER, _RULE, _SOFT = "#fffefb", "#dedad1", "#6b6760"
_COLOURS = ("#98938a", "#0b6e6e", "#b97a12", "#6a4c93", "#a8432f")
_TOKEN = re.compile(r"([MLHVvZ])|(-?\d+(?:\.\d+)?)")
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
_TAKES = {"M": 2, "L": 2, "H": 1, "V": 1, "v": 1}
_BAND = 0.16

Point = tuple[float, float]


def png(svg: str) -> bytes:
    """The picture at one and a half times its size, on paper."""
    root = xml.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    image = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_SIZE * _SCALE)
    for element in root:
        _draw(draw, font, element)
    out = io.BytesIO()
    image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
    return out.getvalue()


def _draw(draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, element: xml.Element) -> None:
    kind, given = element.tag.rpartition("}")[2], element.attrib
    look = given.get("class", "")
    if kind == "text":
        at = (float(given["x"]) * _SCALE, float(given["y"]) * _SCALE)
        draw.text(at, element.text or "", _SOFT, font, _ANCHORS[given.get("text-anchor", "start")])
    elif kind == "circle":
        x, y, radius = (float(given[name]) * _SCALE for name in ("cx", "cy", "r"))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), _colour(look))
    elif kind == "rect":
        x, y, width, height = (float(given[name]) * _SCALE for name in ("x", "y", "width", "height"))
        draw.rectangle((x, y, x + width, y + height), _colour(look))
    elif kind == "path":
        points = _points(given["d"])
        if "band" in look:
            draw.polygon(points, _mixed(_colour(look)))
        else:
            draw.line(points, _colour(look), 6 if "line" in look else 2, "curve")
    else:
        raise AssertionError(f"no <{kind}> is drawn")


def _points(path: str) -> list[Point]:
    """The corners of a path, in pixels."""
    points: list[Point] = []
    numbers: list[float] = []
    command = ""
    for letter, number in _TOKEN.findall(path):
        if letter == "Z":
            points.append(points[0])
        elif letter:
            command = letter
        else:
            numbers.append(float(number) * _SCALE)
            if len(numbers) == _TAKES[command]:
                points.append(_next(command, numbers, points))
                numbers = []
    return points


def _next(command: str, numbers: list[float], points: list[Point]) -> Point:
    if command in "ML":
        return numbers[0], numbers[1]
    x, y = points[-1]
    return (numbers[0], y) if command == "H" else (x, numbers[0] if command == "V" else y + numbers[0])


def _colour(look: str) -> str:
    found = re.search(r"(?:fill|stroke)(\d)", look)
    return _COLOURS[int(found[1])] if found else _RULE if "grid" in look else _SOFT


def _mixed(colour: str) -> tuple[int, int, int]:
    """A colour as thin as a band is drawn, on the paper."""
    pairs = ((int(colour[i : i + 2], 16), int(_PAPER[i : i + 2], 16)) for i in (1, 3, 5))
    red, green, blue = (round(_BAND * ours + (1 - _BAND) * paper) for ours, paper in pairs)
    return red, green, blue
