"""Synthetic overhead scenes with exact truth: pixels, boxes, class mask, and captions as people write them.

What each noun looks like is the table KINDS, searched by words in the noun; a noun that it does not know gets
a shape and colours from a digest of itself. An object is a list of filled polygons, drawn twice:

    unit frame                    mask: at the final resolution, fill and outline, so each object is one
    length 1 along u      ──▶           8-connected region whose extents are its box
    turned, scaled, moved         pixels: three times larger, averaged, pasted where the mask is set

so the mask never disagrees with the picture, and polygons reach less than a pixel short of their boxes.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from rsdata.errors import RecipeError
from rsdata.records import Box

if TYPE_CHECKING:
    from rsdata.words import Words

Array: TypeAlias = np.ndarray[Any, Any]
Colour: TypeAlias = tuple[int, int, int]
Layer: TypeAlias = tuple[Array, Colour]
"""A filled polygon: (n, 2) points u (along), v (across, to the right of u), and its colour."""

GAP = 3
"""Background pixels between any two objects: more than JPEG ringing needs, and no two ever touch."""
BORDER = 2
"""Background pixels between an object and the image's border."""
SIDE = 256
"""Sizes in KINDS are pixels in an image whose shorter side is this; they scale with it."""
SUPERSAMPLE = 3
ROUND = 20
"""An outline of this many corners is round: no rectangle but its box fits it better than another."""

WHITE, GRAY, DARK, BLACK = (240, 241, 243), (172, 173, 175), (68, 70, 75), (28, 29, 33)
RED, ORANGE, YELLOW, BROWN = (214, 36, 36), (240, 130, 24), (246, 214, 32), (176, 112, 66)
GREEN, LIME, FOREST = (72, 164, 62), (132, 208, 88), (28, 84, 40)
BLUE, CYAN, PURPLE, PINK = (42, 86, 206), (64, 212, 234), (104, 58, 190), (232, 62, 168)
TAN, GLASS, SAND, SKIN, CLAY = (206, 184, 148), (44, 56, 72), (222, 200, 142), (240, 200, 165), (192, 88, 62)


class Scene(NamedTuple):
    """One drawn image and all that is true of it.

    pixels: (height, width, 3) uint8 RGB.
    boxes: label and raw_label are the noun; edges are exactly the extents of the object in `mask` (pixels,
        xmax = last column + 1). polygon: clockwise on screen, inside its box and less than 1 px short of
        each edge; 4 corners always where draw was not asked for land cover (the oriented rectangle of
        rectangular objects, the four extreme points of pointed ones, the box of round ones).
    mask: (height, width) int16, index into the nouns given to `draw`, -1 for background. Each object is one
        8-connected region of its class.
    setting: the backdrop, such as "grassland" or "a parking lot".
    """

    pixels: Array
    boxes: list[Box]
    mask: Array
    setting: str


class Kind(NamedTuple):
    """How nouns that match `words` (a regular expression) are drawn.

    low, high: length in pixels of a 256 px image. colour: the word a caption may use, "" for none.
    home: "land" or "water". shadow: its offset in pixels. texture: "", "stripes" or "mottle".
    surface: in land cover it is drawn as a patch that fills the room it finds.
    """

    words: str
    paint: Callable[[np.random.Generator], list[Layer]]
    low: float
    high: float
    colour: str = ""
    home: str = "land"
    shadow: int = 0
    texture: str = ""
    surface: bool = False


class Placed(NamedTuple):
    """An object in its place: layers in image coordinates, and its tile of the mask with left, top."""

    class_index: int
    kind: Kind
    layers: list[Layer]
    tile: Array
    left: int
    top: int
    light: float


# Polygons of the unit frame.


def _points(*pairs: tuple[float, float]) -> Array:
    return np.array(pairs, dtype=np.float64)


def _rect(u: float, v: float, length: float, width: float) -> Array:
    a, b = length / 2, width / 2
    return _points((u - a, v - b), (u + a, v - b), (u + a, v + b), (u - a, v + b))


def _disc(u: float, v: float, radius: float, across: float | None = None, corners: int = 28) -> Array:
    angles = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([u + radius * np.cos(angles), v + (across or radius) * np.sin(angles)], axis=1)


def _mirrored(*pairs: tuple[float, float]) -> Array:
    """The polygon of `pairs` (v >= 0) and of its image at v = 0."""
    return np.concatenate([_points(*pairs), _points(*[(u, -v) for u, v in reversed(pairs)])])


def _turned(points: Array, angle: float) -> Array:
    cosine, sine = math.cos(angle), math.sin(angle)
    turned: Array = points @ np.array([[cosine, sine], [-sine, cosine]])
    return turned


def _blob_radii(rng: np.random.Generator, corners: int = 32) -> Array:
    """Radii (corners,) of an irregular round outline, 0.6 to 1."""
    angles = np.arange(corners) * (2 * math.pi / corners)
    waves = sum(np.sin(k * angles + rng.uniform(0, 7)) / k for k in (2, 3, 5))
    return np.asarray(0.8 + 0.2 * waves / 1.04)


def _blob(rng: np.random.Generator) -> Array:
    return _disc(0, 0, 0.5, corners=32) * _blob_radii(rng)[:, None]


def _frame(points: Array, factor: float) -> Array:
    """`points` drawn in around their centre."""
    centre = points.mean(axis=0)
    return np.asarray((points - centre) * factor + centre)


# What is drawn, in the unit frame. `rng` varies what a reader of the picture would not call another class.


def _plane(rng: np.random.Generator) -> list[Layer]:
    sweep = rng.uniform(0.16, 0.24)
    wings = _points(
        (0.18, 0), (0.13 - sweep, 0.47), (-sweep, 0.47), (-0.08, 0), (-sweep, -0.47), (0.13 - sweep, -0.47)
    )
    tail = _points((-0.34, 0), (-0.45, 0.19), (-0.52, 0.19), (-0.46, 0), (-0.52, -0.19), (-0.45, -0.19))
    return [
        (_mirrored((0.5, 0.01), (0.43, 0.06), (-0.36, 0.055), (-0.5, 0.02)), WHITE),
        (wings, WHITE),
        (tail, WHITE),
        (_rect(0.06, 0.2, 0.12, 0.05), GRAY),
        (_rect(0.06, -0.2, 0.12, 0.05), GRAY),
        (_rect(0.42, 0, 0.04, 0.07), GLASS),
    ]


def _helicopter(rng: np.random.Generator) -> list[Layer]:
    start = rng.uniform(0, math.pi / 2)
    blades = [
        _turned(_rect(0, 0, 0.78, 0.06), start + turn) + _points((0.12, 0)) for turn in (0, math.pi / 2)
    ]
    return [
        (_disc(0.14, 0, 0.27, 0.16), BLACK),
        (_rect(-0.25, 0, 0.52, 0.1), BLACK),
        (_rect(-0.47, 0, 0.08, 0.26), BLACK),
        *((blade, YELLOW) for blade in blades),
    ]


def _ship(rng: np.random.Generator) -> list[Layer]:
    beam = rng.uniform(0.14, 0.17)
    hull = _mirrored((0.5, 0.005), (0.4, beam * 0.55), (0.22, beam), (-0.46, beam), (-0.5, beam * 0.7))
    return [
        (hull, WHITE),
        (_frame(hull, 0.72), (168, 92, 70)),
        (_rect(-0.3, 0, 0.14, beam * 1.5), WHITE),
        (_rect(0.02, 0, 0.22, beam * 0.9), (225, 215, 200)),
    ]


def _vehicle(rng: np.random.Generator, colour: Colour, aspect: float) -> list[Layer]:
    return [
        (_rect(0, 0, 1, aspect), colour),
        (_rect(0.16, 0, 0.13, aspect * 0.74), GLASS),
        (_rect(-0.36, 0, 0.09, aspect * 0.74), GLASS),
    ]


def _truck(rng: np.random.Generator, colour: Colour, cab: Colour, aspect: float = 0.34) -> list[Layer]:
    ribs = [(_rect(u, 0, 0.025, aspect * 0.9), DARK) for u in (-0.3, -0.1, 0.1)]
    return [
        (_rect(0, 0, 1, aspect), colour),
        (_rect(0.37, 0, 0.26, aspect), cab),
        (_rect(0.41, 0, 0.08, aspect * 0.76), GLASS),
        *ribs,
    ]


def _bus(rng: np.random.Generator) -> list[Layer]:
    vents = [(_rect(u, 0, 0.1, 0.09), GRAY) for u in (-0.28, 0.05)]
    return [(_rect(0, 0, 1, 0.27), YELLOW), (_rect(0.45, 0, 0.06, 0.22), GLASS), *vents]


def _tricycle(rng: np.random.Generator, awning: bool) -> list[Layer]:
    body: list[Layer] = [(_rect(0, 0, 1, 0.62), PURPLE if awning else CYAN)]
    if awning:
        return body + [(_rect(u, 0, 0.14, 0.62), WHITE) for u in (-0.3, 0.0, 0.3)]
    return [*body, (_rect(-0.2, 0, 0.46, 0.4), (20, 110, 130)), (_disc(0.34, 0, 0.1), BLACK)]


def _two_wheels(rng: np.random.Generator, colour: Colour, thick: float) -> list[Layer]:
    return [
        (_rect(0, 0, 0.9, thick), colour),
        (_rect(0.24, 0, 0.1, 0.44), colour),
        (_disc(0.36, 0, 0.14, thick * 0.8), BLACK if colour != BLACK else GRAY),
        (_disc(-0.36, 0, 0.14, thick * 0.8), BLACK if colour != BLACK else GRAY),
    ]


def _walker(rng: np.random.Generator, colour: Colour, across: float) -> list[Layer]:
    return [(_disc(0, 0, across, 0.5), colour), (_disc(0.02, 0, 0.2), SKIN)]


def _tank(rng: np.random.Generator) -> list[Layer]:
    return [
        (_disc(0, 0, 0.5), (150, 152, 156)),
        (_disc(-0.04, -0.03, 0.43), WHITE),
        (_rect(0.16, 0, 0.46, 0.06), (150, 152, 156)),
        (_disc(-0.04, -0.03, 0.09), (178, 180, 184)),
    ]


def _lined(body: Array, colour: Colour, line: float) -> list[Layer]:
    """A pitch: `body` with a white frame, `line` wide, a little inside its edge."""
    span = np.ptp(body, axis=0)
    inner = [np.asarray(body * (1 - 2 * (line * k) / span)) for k in (1, 2)]
    return [(body, colour), (inner[0], WHITE), (inner[1], colour)]


def _tennis(rng: np.random.Generator) -> list[Layer]:
    service = [(_rect(0, v, 0.8, 0.03), WHITE) for v in (-0.14, 0.14)]
    return [
        (_rect(0, 0, 1, 0.58), (46, 120, 84)),
        (_rect(0, 0, 0.84, 0.44), WHITE),
        (_rect(0, 0, 0.78, 0.38), BLUE),
        *service,
        (_rect(0, 0, 0.04, 0.5), WHITE),
    ]


def _basketball(rng: np.random.Generator) -> list[Layer]:
    keys = [(_rect(u, 0, 0.16, 0.2), (150, 50, 30)) for u in (-0.38, 0.38)]
    return [
        *_lined(_rect(0, 0, 1, 0.6), (228, 128, 52), 0.035),
        *keys,
        (_disc(0, 0, 0.11), WHITE),
        (_disc(0, 0, 0.07), (228, 128, 52)),
        (_rect(0, 0, 0.03, 0.54), WHITE),
    ]


def _soccer(rng: np.random.Generator) -> list[Layer]:
    mown = [(_rect(u, 0, 0.11, 0.53), (48, 140, 44)) for u in (-0.33, -0.11, 0.11, 0.33)]
    goals = [(_rect(u, 0, 0.03, 0.3), WHITE) for u in (-0.33, 0.33)]
    return [
        *_lined(_rect(0, 0, 1, 0.64), (72, 186, 60), 0.025),
        *mown,
        (_rect(0, 0, 0.025, 0.56), WHITE),
        (_disc(0, 0, 0.12), WHITE),
        (_disc(0, 0, 0.09), (60, 160, 52)),
        *goals,
    ]


def _oval(half: float, radius: float) -> Array:
    """A rectangle with half-round ends: `half` its straight half-length."""
    ends = np.linspace(-math.pi / 2, math.pi / 2, 12)
    right = np.stack([half + radius * np.cos(ends), radius * np.sin(ends)], axis=1)
    return np.concatenate([right, -right])


def _track(rng: np.random.Generator) -> list[Layer]:
    return [
        (_oval(0.22, 0.28), CLAY),
        (_oval(0.22, 0.235), WHITE),
        (_oval(0.22, 0.22), CLAY),
        (_oval(0.22, 0.16), GREEN),
        (_rect(0, 0, 0.02, 0.3), WHITE),
    ]


def _stadium(rng: np.random.Generator) -> list[Layer]:
    aisles = [(_turned(_rect(0.41, 0, 0.17, 0.025), k * math.pi / 4) * (1, 0.8), DARK) for k in range(8)]
    return [
        (_disc(0, 0, 0.5, 0.4), (224, 224, 228)),
        (_disc(0, 0, 0.44, 0.34), (120, 126, 186)),
        *aisles,
        (_disc(0, 0, 0.32, 0.23), GREEN),
        (_rect(0, 0, 0.02, 0.3), WHITE),
    ]


def _fan(radius: float) -> Array:
    angles = np.linspace(-math.pi / 4, math.pi / 4, 12)
    arc = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    return np.concatenate([np.zeros((1, 2)), arc]) - (0.5, 0)


def _baseball(rng: np.random.Generator) -> list[Layer]:
    square = _turned(_rect(0, 0, 0.3, 0.3), math.pi / 4) + _points((-0.24, 0))
    bases = [
        (_disc(u, v, 0.03, corners=8), WHITE)
        for u, v in ((-0.44, 0), (-0.05, 0), (-0.24, 0.2), (-0.24, -0.2))
    ]
    return [
        (_fan(1.0), (204, 150, 100)),
        (_fan(0.92), GREEN),
        (_fan(0.6), (204, 150, 100)),
        (square, GREEN),
        *bases,
    ]  # fmt: skip


def _pool(rng: np.random.Generator) -> list[Layer]:
    if rng.random() < 0.6:
        lanes = [(_rect(0, v, 0.84, 0.025), (170, 240, 250)) for v in (-0.1, 0.1)]
        return [(_rect(0, 0, 1, 0.54), WHITE), (_rect(0, 0, 0.88, 0.42), CYAN), *lanes]
    return [(_disc(0, 0, 0.5, 0.36), WHITE), (_disc(0, 0, 0.43, 0.29), CYAN)]


def _dashes(length: float, v: float = 0, count: int = 5, width: float = 0.03) -> list[Layer]:
    step = length / count
    return [(_rect(-length / 2 + step * (k + 0.5), v, step * 0.55, width), WHITE) for k in range(count)]


def _road(rng: np.random.Generator, width: float = 0.16) -> list[Layer]:
    return [
        (_rect(0, 0, 1, width), DARK),
        (_rect(0, width * 0.42, 1, width * 0.1), (206, 206, 200)),
        (_rect(0, -width * 0.42, 1, width * 0.1), (206, 206, 200)),
        *_dashes(0.96, count=6, width=width * 0.18),
    ]


def _bridge(rng: np.random.Generator) -> list[Layer]:
    piers = [(_rect(u, 0, 0.05, 0.22), (168, 160, 150)) for u in (-0.3, 0.0, 0.3)]
    return [
        (_rect(0, 0, 1, 0.22), (232, 226, 214)),
        *piers,
        (_rect(0, 0, 1, 0.12), DARK),
        *_dashes(0.95, count=5, width=0.025),
    ]


def _harbor(rng: np.random.Generator) -> list[Layer]:
    piers = [(_rect(u, 0.1, 0.1, 0.62), TAN) for u in (-0.45, -0.15, 0.15, 0.45)]
    sheds = [(_rect(u, -0.28, 0.16, 0.12), (150, 96, 70)) for u in (-0.3, 0.0, 0.3)]
    return [(_rect(0, -0.28, 1, 0.24), TAN), *piers, *sheds]


def _dam(rng: np.random.Generator) -> list[Layer]:
    def arc(inner: float, outer: float) -> Array:
        angles = np.linspace(-0.62, 0.62, 14)
        ring = [np.stack([r * np.sin(angles), r * np.cos(angles)], axis=1) for r in (outer, inner)]
        return np.concatenate([ring[0], ring[1][::-1]]) - (0, 0.72)

    gates = [
        (_rect(u, 0.085 - u * u * 0.7, 0.03, 0.13), (110, 106, 100)) for u in np.linspace(-0.36, 0.36, 7)
    ]
    return [(arc(0.7, 0.88), (232, 228, 220)), *gates, (arc(0.83, 0.88), (150, 144, 136))]


def _roundabout(rng: np.random.Generator) -> list[Layer]:
    return [
        (_disc(0, 0, 0.34), DARK),
        (_rect(0, 0, 1, 0.17), DARK),
        (_rect(0, 0, 0.17, 1), DARK),
        (_disc(0, 0, 0.21), WHITE),
        (_disc(0, 0, 0.18), LIME),
        (_disc(0, 0, 0.06), BROWN),
    ]


def _crossing(rng: np.random.Generator, arms: int) -> list[Layer]:
    turns = [k * math.pi / 2 for k in range(arms)]
    arm = [_turned(_rect(0.22, 0, 0.56, 0.2), turn) for turn in turns]
    zebra = [_turned(_rect(0.18, v, 0.1, 0.03), turn) for turn in turns for v in (-0.07, 0, 0.07)]
    lines = [_turned(_rect(0.36, 0, 0.2, 0.02), turn) for turn in turns]
    return [*((a, DARK) for a in arm), *((z, WHITE) for z in zebra), *((line, YELLOW) for line in lines)]


def _overpass(rng: np.random.Generator) -> list[Layer]:
    lean = rng.uniform(1.2, 1.9)
    under, over = _turned(_rect(0, 0, 1, 0.2), lean), _rect(0, 0, 1, 0.2)
    line = _turned(_rect(0, 0, 0.96, 0.03), lean)
    return [
        (under, DARK),
        (line, YELLOW),
        (over, (226, 218, 204)),
        (_rect(0, 0, 1, 0.13), DARK),
        *_dashes(0.95, count=6),
    ]


def _airport(rng: np.random.Generator) -> list[Layer]:
    links = [(_rect(u, 0.02, 0.06, 0.32), DARK) for u in (-0.32, 0.0, 0.32)]
    return [
        (_rect(0, -0.16, 1, 0.14), DARK),
        (_rect(0, 0.13, 0.84, 0.08), DARK),
        *links,
        (_rect(0, 0.25, 0.5, 0.17), (210, 212, 218)),
        (_rect(0, 0.25, 0.44, 0.05), (120, 150, 190)),
        *_dashes(0.94, v=-0.16, count=8, width=0.035),
    ]


def _helipad(rng: np.random.Generator) -> list[Layer]:
    letter = [_rect(0, v, 0.36, 0.09) for v in (-0.13, 0.13)] + [_rect(0, 0, 0.09, 0.28)]
    return [(_disc(0, 0, 0.5), CLAY), (_disc(0, 0, 0.42), WHITE), (_disc(0, 0, 0.35), CLAY),
            *((stroke, WHITE) for stroke in letter)]  # fmt: skip


def _crane(rng: np.random.Generator) -> list[Layer]:
    rails = [_rect(0, v, 1, 0.08) for v in (-0.2, 0.2)]
    beams = [_rect(u, 0, 0.08, 0.48) for u in (-0.46, -0.1, 0.46)]
    return [*((part, PURPLE) for part in (*rails, *beams)), (_rect(0.12, 0, 0.16, 0.42), ORANGE)]


def _chimney(rng: np.random.Generator) -> list[Layer]:
    rings = ((0.5, RED), (0.4, WHITE), (0.29, RED), (0.17, BLACK))
    return [(_disc(0, 0, radius), colour) for radius, colour in rings]


def _windmill(rng: np.random.Generator) -> list[Layer]:
    blade = _points((0, -0.07), (0.2, -0.06), (0.56, -0.02), (0.56, 0.02), (0.2, 0.05), (0, 0.07))
    blades = [(_turned(blade, turn * 2 * math.pi / 3), WHITE) for turn in range(3)]
    return [*blades, (_disc(0, 0, 0.1), GRAY)]


def _service_area(rng: np.random.Generator) -> list[Layer]:
    roofs = [(_rect(u, -0.1, 0.18, 0.2), RED) for u in (-0.3, 0.3)]
    return [
        (_rect(0, 0, 1, 0.6), (232, 220, 186)),
        *roofs,
        (_rect(0, -0.1, 0.24, 0.16), WHITE),
        (_rect(0, 0.2, 0.92, 0.1), DARK),
        *_dashes(0.86, v=0.2, count=7, width=0.04),
        (_rect(0, -0.25, 0.92, 0.05), GREEN),
    ]


def _toll(rng: np.random.Generator) -> list[Layer]:
    lanes = [(_rect(0, v, 1, 0.02), WHITE) for v in (-0.15, 0.0, 0.15)]
    booths = [(_rect(0, v, 0.3, 0.05), YELLOW) for v in (-0.22, -0.075, 0.075, 0.22)]
    return [(_rect(0, 0, 1, 0.6), DARK), *lanes, *booths, (_rect(0, 0, 0.16, 0.6), (48, 110, 220))]


def _golf(rng: np.random.Generator) -> list[Layer]:
    bunkers = [_blob(rng) * 0.2 + spot for spot in ((-0.2, 0.12), (0.18, -0.16), (0.16, 0.17))]
    return [
        (_blob(rng), LIME),
        (_blob(rng) * 0.42 + (-0.1, -0.08), (176, 236, 120)),
        *((bunker, (250, 232, 176)) for bunker in bunkers),
        (_disc(-0.1, -0.08, 0.035, corners=8), RED),
    ]


def _station(rng: np.random.Generator) -> list[Layer]:
    rails = [(_rect(0, v, 1, 0.02), (215, 205, 190)) for v in (-0.17, -0.11, 0.11, 0.17)]
    return [
        (_rect(0, 0, 1, 0.42), (112, 84, 66)),
        *rails,
        (_rect(0, 0, 0.7, 0.15), (140, 196, 226)),
        (_rect(0, 0, 0.7, 0.03), WHITE),
    ]


def _parking(rng: np.random.Generator) -> list[Layer]:
    stalls = [(_rect(u, v, 0.02, 0.2), WHITE) for u in np.linspace(-0.44, 0.44, 9) for v in (-0.19, 0.19)]
    edges = [(_rect(0, v, 0.9, 0.02), WHITE) for v in (-0.28, 0.28)]
    return [(_rect(0, 0, 1, 0.62), DARK), *stalls, *edges]


def _building(rng: np.random.Generator) -> list[Layer]:
    wide = rng.uniform(0.45, 0.75)
    roof = [(_rect(0, 0, 1, wide), CLAY), (_rect(0, wide / 4, 1, wide / 2), (156, 62, 44))]
    return [*roof, (_rect(0, 0, 1, 0.04), (230, 150, 120)), (_rect(0.28, -wide / 4, 0.1, 0.1), GRAY)]


def _block(rng: np.random.Generator) -> list[Layer]:
    """A building as land cover has it: an L seen from above, or one wing of it."""
    if rng.random() < 0.4:
        return _building(rng)
    ell = _points((-0.5, -0.4), (0.5, -0.4), (0.5, -0.05), (-0.1, -0.05), (-0.1, 0.4), (-0.5, 0.4))
    return [
        (ell, CLAY),
        (_rect(0.1, -0.14, 0.78, 0.15), (156, 62, 44)),
        (_rect(-0.2, 0.1, 0.16, 0.56), (156, 62, 44)),
    ]


def _trees(rng: np.random.Generator, crowns: int) -> list[Layer]:
    spread = 0 if crowns == 1 else 0.27
    turns = rng.uniform(0, 7) + np.arange(crowns) * (2 * math.pi / crowns)
    spots = [(spread * math.cos(turn), spread * math.sin(turn)) for turn in turns]
    radius = 0.5 - spread * 0.8
    dark = [(_disc(0, 0, radius), FOREST), *((_disc(u, v, radius, corners=20), FOREST) for u, v in spots)]
    return dark + [(_disc(u - 0.05, v - 0.05, radius * 0.6, corners=16), (46, 116, 52)) for u, v in spots]


def _patch(rng: np.random.Generator, colour: Colour) -> list[Layer]:
    return [(_blob(rng), colour)]


def _plot(rng: np.random.Generator, colour: Colour) -> list[Layer]:
    return [(_rect(0, 0, 1, rng.uniform(0.6, 0.8)), colour)]


def _river(rng: np.random.Generator) -> list[Layer]:
    along = np.linspace(-0.5, 0.5, 14)
    bend = 0.09 * np.sin(along * rng.uniform(6, 9) + rng.uniform(0, 7))
    banks = [np.stack([along, bend + side], axis=1) for side in (-0.09, 0.09)]
    return [(np.concatenate([banks[0], banks[1][::-1]]), (40, 98, 168))]


_FIELD = (214, 190, 66)
_WATER = (40, 98, 168)

KINDS: tuple[Kind, ...] = (
    Kind(r"helicopter", _helicopter, 38, 52, "black", shadow=2),
    Kind(r"helipad", _helipad, 28, 40, "red"),
    Kind(r"airport|runway", _airport, 80, 90),
    Kind(r"plane|aircraft|jet\b", _plane, 40, 62, "white", shadow=2),
    Kind(r"container crane|\bcrane", _crane, 46, 62, "purple", shadow=3),
    Kind(r"ship|boat|vessel|ferry|yacht", _ship, 38, 70, "white", "water"),
    Kind(r"harbou?r|\bport\b|dock|pier", _harbor, 64, 86, "", "water"),
    Kind(r"bridge", _bridge, 66, 90, "", "water"),
    Kind(r"\bdam\b", _dam, 66, 88, "white", "water"),
    Kind(r"storage tank|\btank", _tank, 26, 46, "white", shadow=3),
    Kind(r"tennis", _tennis, 44, 60, "blue"),
    Kind(r"basketball", _basketball, 44, 60, "orange"),
    Kind(r"baseball", _baseball, 46, 66),
    Kind(r"soccer|football", _soccer, 66, 90, "green"),
    Kind(r"track field|running track", _track, 70, 90),
    Kind(r"stadium", _stadium, 72, 90),
    Kind(r"pool", _pool, 28, 46),
    Kind(r"service area", _service_area, 66, 88),
    Kind(r"toll", _toll, 50, 68),
    Kind(r"golf", _golf, 64, 88, "green"),
    Kind(r"station", _station, 72, 90, "brown"),
    Kind(r"parking", _parking, 60, 84),
    Kind(r"wind ?mill|wind turbine", _windmill, 46, 66, "white", shadow=4),
    Kind(r"chimney", _chimney, 26, 38, shadow=9),
    Kind(r"roundabout", _roundabout, 50, 70),
    Kind(r"\bt[- ]junction", partial(_crossing, arms=3), 56, 76),
    Kind(r"cross ?road|intersection|junction", partial(_crossing, arms=4), 56, 76),
    Kind(r"overpass|viaduct|flyover", _overpass, 66, 88),
    Kind(r"road|highway|expressway|street", _road, 66, 90),
    Kind(r"awning", partial(_tricycle, awning=True), 30, 38, "purple", shadow=1),
    Kind(r"tricycle", partial(_tricycle, awning=False), 26, 32, "cyan", shadow=1),
    Kind(r"bicycle|\bbike|cyclist", partial(_two_wheels, colour=LIME, thick=0.16), 24, 29, "green", shadow=1),
    Kind(r"motor|scooter", partial(_two_wheels, colour=BLACK, thick=0.3), 25, 30, "black", shadow=1),
    Kind(r"pedestrian|walker", partial(_walker, colour=BLUE, across=0.3), 14, 18, shadow=2),
    Kind(r"person|people|human", partial(_walker, colour=PINK, across=0.48), 14, 18, shadow=2),
    Kind(r"large vehicle|truck|lorry", partial(_truck, colour=ORANGE, cab=WHITE), 48, 62, "orange", shadow=2),
    Kind(r"\bbus(es)?\b|coach|tram", _bus, 62, 78, "yellow", shadow=2),
    Kind(r"\bvans?\b", partial(_vehicle, colour=WHITE, aspect=0.5), 38, 46, "white", shadow=2),
    Kind(r"\bcars?\b|vehicle|taxi", partial(_vehicle, colour=RED, aspect=0.5), 26, 34, "red", shadow=1),
    Kind(r"building|house|roof|residential|warehouse", _building, 36, 60, "red", shadow=4),
    Kind(r"forest|wood", partial(_trees, crowns=6), 54, 80, "", texture="mottle", surface=True),
    Kind(r"tree", partial(_trees, crowns=1), 26, 40, "", shadow=3, texture="mottle", surface=True),
    Kind(r"river|stream|canal", _river, 66, 90, "blue", surface=True),
    Kind(r"water|lake|pond|sea", partial(_patch, colour=_WATER), 50, 84, "", surface=True),
    Kind(r"low vegetation|grass|meadow|shrub", partial(_patch, colour=(122, 196, 92)), 44, 72,
         texture="mottle", surface=True),
    Kind(r"barren|bare|sand|desert|soil", partial(_patch, colour=(226, 178, 116)), 50, 80,
         texture="mottle", surface=True),
    Kind(r"agricultur|farm|crop|field|plot", partial(_plot, colour=_FIELD), 48, 76,
         texture="stripes", surface=True),
)  # fmt: skip

_HUES: tuple[tuple[str, Colour], ...] = (
    ("red", RED), ("orange", ORANGE), ("yellow", YELLOW), ("green", (60, 190, 60)), ("cyan", CYAN),
    ("blue", BLUE), ("purple", PURPLE), ("pink", PINK), ("white", WHITE), ("black", BLACK),
)  # fmt: skip


def _emblem(rng: np.random.Generator, corners: int, star: bool, colour: Colour, mark: Colour) -> list[Layer]:
    outline = _disc(0, 0, 0.5, corners=corners * (2 if star else 1))
    if star:
        outline[1::2] *= 0.5
    return [(outline, colour), (_disc(0, 0, 0.18 if star or corners < 4 else 0.25), mark)]


@lru_cache(maxsize=1024)
def _kind(noun: str) -> Kind:
    for kind in KINDS:
        if re.search(kind.words, noun, re.IGNORECASE):
            return kind
    digest = hashlib.sha256(noun.encode()).digest()
    name, colour = _HUES[digest[0] % len(_HUES)]
    _, mark = _HUES[(digest[0] + 1 + digest[1] % (len(_HUES) - 1)) % len(_HUES)]
    paint = partial(_emblem, corners=3 + digest[2] % 5, star=digest[3] % 2 == 1, colour=colour, mark=mark)
    low = 30 + digest[4] % 24
    return Kind(re.escape(noun), paint, low, low + 12, name, surface=True)


# Backdrops.

_GROUNDS: dict[str, Colour] = {
    "grassland": (112, 124, 86),
    "bare soil": (150, 130, 106),
    "concrete": (148, 147, 142),
    "a parking lot": (118, 118, 121),
    "water": (58, 88, 112),
    "open ground": (150, 147, 138),
}
_LAND = ("grassland", "bare soil", "concrete", "a parking lot")


def _noise(rng: np.random.Generator, width: int, height: int, cell: int) -> Array:
    """Smooth noise (height, width) float32 of about -1 to 1, with hills `cell` pixels wide."""
    small = rng.random((height // cell + 2, width // cell + 2), dtype=np.float32) * 2 - 1
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _shore(rng: np.random.Generator, width: int, height: int) -> Array:
    """Where the water of a coast is: (height, width) bool, two fifths to three fifths of it."""
    angle = rng.uniform(0, 2 * math.pi)
    x = np.arange(width, dtype=np.float32) / width
    y = np.arange(height, dtype=np.float32)[:, None] / height
    across = x * math.cos(angle) + y * math.sin(angle) + 0.05 * _noise(rng, width, height, max(width // 4, 8))
    return np.asarray(across > np.quantile(across[::8, ::8], rng.uniform(0.4, 0.6)))


def _backdrop(rng: np.random.Generator, ground: str, water: Array, scale: float) -> Image.Image:
    height, width = water.shape
    land = Image.new("RGB", (width, height), _GROUNDS[ground])
    if ground != "water":
        _marks(rng, ImageDraw.Draw(land), _GROUNDS[ground], width, height, scale)
    colours = np.asarray(land).astype(np.float32)
    colours[water] = _GROUNDS["water"]
    large, small = (_noise(rng, width, height, max(2, round(cell * scale))) for cell in (64, 8))
    colours += (large * 9 + small * 5)[..., None]
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def _marks(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, colour: Colour, width: int, height: int, scale: float
) -> None:
    """Fields and a track across the whole image, too faint and too large for an object."""
    reach = width + height
    for _ in range(int(rng.integers(1, 4))):
        shade = tuple((np.array(colour) + rng.integers(-8, 9) + rng.integers(-3, 4, 3)).tolist())
        edge = _turned(_rect(reach / 2, 0, reach, 2 * reach), rng.uniform(0, 7))
        pen.polygon(_ints(edge + rng.uniform((0, 0), (width, height))), fill=shade)
    if rng.random() < 0.5:
        shade = tuple(channel + 9 for channel in colour)
        track = _turned(_rect(0, 0, 2 * reach, 10 * scale), rng.uniform(0, 7))
        pen.polygon(_ints(track + rng.uniform((0, 0), (width, height))), fill=shade)


# Placing.


def _ints(points: Array) -> list[tuple[int, int]]:
    # Pillow cuts a polygon's coordinates to integers; floor makes that the pixel that holds the point.
    return [(x, y) for x, y in np.floor(points).astype(int).tolist()]


def _raster(layers: Iterable[Layer]) -> tuple[Array, int, int]:
    """The pixels that the layers touch: bool tile, cut to its extents, and its left and top."""
    polygons = [_ints(points) for points, _ in layers]
    flat = np.array([point for polygon in polygons for point in polygon])
    (left, top), (right, bottom) = flat.min(axis=0).tolist(), flat.max(axis=0).tolist()
    tile = Image.new("L", (right - left + 1, bottom - top + 1))
    pen = ImageDraw.Draw(tile)
    for polygon in polygons:
        corners = [(x - left, y - top) for x, y in polygon]
        pen.polygon(corners, fill=1)
        # Thin and pointed parts fall apart without their outline. Pillow leaves it out of the call above,
        # because it has the colour of the fill.
        pen.polygon(corners, outline=1)
    return np.asarray(tile).astype(bool), left, top


def _posed(layers: list[Layer], length: float, angle: float) -> list[Layer]:
    return [(_turned(points, angle) * length, colour) for points, colour in layers]


def _moved(layers: list[Layer], x: float, y: float) -> list[Layer]:
    return [(points + _points((x, y)), colour) for points, colour in layers]


def _block_around(blocked: Array, tile: Array, left: int, top: int) -> None:
    """Mark `tile` and all within GAP pixels of it."""
    height, width = tile.shape
    wide = np.zeros((height, width + 2 * GAP), dtype=bool)
    for shift in range(2 * GAP + 1):
        wide[:, shift : shift + width] |= tile
    x0, y0 = max(left - GAP, 0), max(top - GAP, 0)
    x1 = min(left + width + GAP, blocked.shape[1])
    for shift in range(-GAP, GAP + 1):
        y = top + shift
        first, last = max(y, y0), min(y + height, blocked.shape[0])
        blocked[first:last, x0:x1] |= wide[first - y : last - y, x0 - left + GAP : x1 - left + GAP]


def _place(
    rng: np.random.Generator, index: int, kind: Kind, layers: list[Layer], length: float, blocked: Array
) -> Placed | None:
    """Put the object at a random angle where nothing of `blocked` is; smaller where there is no room."""
    height, width = blocked.shape
    room_x, room_y = width - 2 * BORDER, height - 2 * BORDER
    for _ in range(4):
        posed = _posed(layers, length, rng.uniform(0, 2 * math.pi))
        tile, left, top = _raster(posed)
        tall, wide = tile.shape
        if wide <= room_x and tall <= room_y:
            for x, y in rng.integers((0, 0), (room_x - wide + 1, room_y - tall + 1), (30, 2)).tolist():
                x, y = x + BORDER, y + BORDER
                if not (blocked[y : y + tall, x : x + wide] & tile).any():
                    light = rng.uniform(0.93, 1.05)
                    return Placed(index, kind, _moved(posed, x - left, y - top), tile, x, y, light)
        length *= 0.85 if wide <= room_x and tall <= room_y else min(room_x / wide, room_y / tall) * 0.95
    return None


def _choose(rng: np.random.Generator, kinds: Sequence[Kind], most: int) -> list[int]:
    """Indices of the nouns of the objects to draw: 1 to 4 classes, 1 to `most` objects."""
    size = min(len(kinds), most, int(rng.choice(4, p=(0.3, 0.35, 0.25, 0.1))) + 1)
    chosen = rng.choice(len(kinds), size, replace=False).tolist()
    objects = list(chosen)
    for index in chosen:
        crowd = max(1, round(most * min(1.0, (36 / kinds[index].high) ** 1.5)))
        objects += [index] * int(rng.integers(0, crowd))
    # Shuffled behind the first of each, so that the cut at `most` does not favour a class.
    tail = np.array(objects[size:], dtype=int)
    rng.shuffle(tail)
    return [*chosen, *tail.tolist()][:most]


def _scatter(
    rng: np.random.Generator,
    objects: Sequence[int],
    kinds: Sequence[Kind],
    taken: dict[str, Array],
    scale: float,
) -> list[Placed]:
    """Place objects, largest first. taken: (height, width) bool for each home, where nothing may be put."""
    found = []
    for index in sorted(objects, key=lambda index: (-kinds[index].high, index)):
        kind = kinds[index]
        length = rng.uniform(kind.low, kind.high) * scale
        placed = _place(rng, index, kind, kind.paint(rng), length, taken[kind.home])
        if placed is not None:
            found.append(placed)
            for blocked in taken.values():
                _block_around(blocked, placed.tile, placed.left, placed.top)
    return found


# Land cover.

_ANGLES = np.arange(32) * (2 * math.pi / 32)
_RAYS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def _reach(blocked: Array, x: Array, y: Array, steps: int) -> Array:
    """How far each of 32 rays from each centre runs over free pixels: (centres, 32), at most `steps`."""
    height, width = blocked.shape
    along = np.arange(steps)[:, None, None] * _RAYS
    columns = np.clip(along[..., 0] + x[:, None, None], 0, width - 1).astype(int)
    rows = np.clip(along[..., 1] + y[:, None, None], 0, height - 1).astype(int)
    return np.asarray((~blocked[rows, columns]).cumprod(axis=1).sum(axis=1))


class Patch(NamedTuple):
    """A grown patch: its centre in pixels and, for each of 32 rays, how far it reaches."""

    placed: Placed
    centre: Array
    radii: Array


def _grow(
    rng: np.random.Generator, index: int, kind: Kind, limit: float, blocked: Array, centres: Array
) -> Patch | None:
    """A patch up to `limit` pixels in radius that fills the room around the best of `centres` (n, 2)."""
    free = _reach(blocked, centres[:, 0], centres[:, 1], math.ceil(limit) + 2)
    # A quarter of the rays may be short: the best centre has the most room along the others.
    best = int(np.argmax(np.sort(free, axis=1)[:, len(_RAYS) // 4]))
    radii = np.minimum(free[best] - 2.0, limit * _blob_radii(rng))
    for turn in (1, -1, 2, -2):
        # No spikes: a ray may be little longer than the rays beside it.
        radii = np.minimum(radii, np.roll(radii, turn) * 1.35)
    _, colour = kind.paint(rng)[0]
    for _ in range(5):
        if radii.min() < min(7.0, limit / 3):
            return None
        layers: list[Layer] = [(_RAYS * radii[:, None] + centres[best], colour)]
        tile, left, top = _raster(layers)
        tall, wide = tile.shape
        if not (blocked[top : top + tall, left : left + wide] & tile).any():
            return Patch(
                Placed(index, kind, layers, tile, left, top, rng.uniform(0.95, 1.03)), centres[best], radii
            )
        radii = radii * 0.9
    return None


def _holed(patch: Patch) -> tuple[Placed, Array]:
    """The patch without its middle, and where around that middle's island nothing may be: its tile, bool."""
    placed = patch.placed
    hole, left, top = _raster([(_RAYS * patch.radii[:, None] * 0.55 + patch.centre, WHITE)])
    inside = np.zeros_like(placed.tile)
    x, y = left - placed.left, top - placed.top
    inside[y : y + hole.shape[0], x : x + hole.shape[1]] = hole
    ring = placed.tile & ~inside
    kept_off = ~inside
    _block_around(kept_off, ring, 0, 0)
    return placed._replace(tile=ring), kept_off


def _cover_kind(kind: Kind) -> Kind:
    """`kind` at the size it has in land cover: long roads, large buildings."""
    if kind.paint is _road:
        return kind._replace(paint=partial(_road, width=0.09), low=130, high=230)
    if kind.paint is _building:
        return kind._replace(paint=_block, low=48, high=84)
    return kind


def _cover(
    rng: np.random.Generator, kinds: Sequence[Kind], most: int, blocked: Array, scale: float
) -> list[Placed]:
    """Land cover: long strips first, then patches that fill the room left, then all that is small."""
    size = min(len(kinds), most, int(rng.integers(3, 6)))
    chosen = rng.choice(len(kinds), size, replace=False).tolist()
    total = int(rng.integers(max(size, (most + 1) // 2), most + 1))
    objects = [*chosen, *rng.choice(chosen, total - size).tolist()]
    kinds = [_cover_kind(kind) for kind in kinds]
    taken = {"land": blocked, "water": blocked}
    surfaces = [index for index in objects if kinds[index].surface]
    long = [index for index in objects if not kinds[index].surface and kinds[index].high > 62]
    small = [index for index in objects if not kinds[index].surface and kinds[index].high <= 62]
    found = _scatter(rng, long, kinds, taken, scale)
    for step, index in enumerate(surfaces):
        limit = max(0.0, 1 - step / 8) * rng.uniform(26, 56) + 26
        room = most - len(found) - len(small) - (len(surfaces) - 1 - step)
        found += _surface(rng, index, kinds, set(chosen), limit * scale, blocked, room)
    found += _scatter(rng, small, kinds, taken, scale)
    return found or _scatter(rng, chosen[:1], kinds, taken, scale)


def _surface(
    rng: np.random.Generator,
    index: int,
    kinds: Sequence[Kind],
    chosen: set[int],
    limit: float,
    blocked: Array,
    room: int,
) -> list[Placed]:
    """One patch, blocked from now on; a large one may have a hole, and a hole an island of another class."""
    height, width = blocked.shape
    patch = _grow(rng, index, kinds[index], limit, blocked, rng.uniform((0, 0), (width, height), (12, 2)))
    if patch is None:
        return []
    placed = patch.placed
    _block_around(blocked, placed.tile, placed.left, placed.top)
    if patch.radii.min() < max(12, 0.08 * min(width, height)) or rng.random() < 0.6:
        return [placed]
    ring, kept_off = _holed(patch)
    others = sorted(other for other in chosen if other != index and kinds[other].surface)
    if room < 2 or not others or rng.random() < 0.3:
        return [ring]
    other = others[int(rng.integers(len(others)))]
    corner = (ring.left, ring.top)
    island = _grow(rng, other, kinds[other], limit, kept_off, (patch.centre - corner)[None])
    if island is None:
        return [ring]
    layers = _moved(island.placed.layers, *corner)
    moved = island.placed._replace(
        layers=layers, left=island.placed.left + ring.left, top=island.placed.top + ring.top
    )
    return [ring, moved]


# Painting.


def _stencil(tile: Array, value: int = 255) -> Image.Image:
    return Image.fromarray(tile.astype(np.uint8) * np.uint8(value))


def _paint(picture: Image.Image, placed: Placed) -> None:
    """Draw the layers three times larger on what lies beneath, average, and keep what the mask covers."""
    tall, wide = placed.tile.shape
    box = (placed.left, placed.top, placed.left + wide, placed.top + tall)
    draft = picture.crop(box).resize((wide * SUPERSAMPLE, tall * SUPERSAMPLE), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(draft)
    for points, colour in placed.layers:
        shade = tuple(min(255, round(channel * placed.light)) for channel in colour)
        pen.polygon(_ints((points - (placed.left, placed.top)) * SUPERSAMPLE), fill=shade)
    picture.paste(draft.reduce(SUPERSAMPLE), box, _stencil(placed.tile))


def _texture(rng: np.random.Generator, pixels: Array, placed: Placed, scale: float) -> None:
    tall, wide = placed.tile.shape
    if placed.kind.texture == "mottle":
        cell = max(1, round(3 * scale))
        coarse = rng.integers(-16, 17, (tall // cell + 1, wide // cell + 1), dtype=np.int16)
        pattern = coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:tall, :wide]
    else:
        angle, period = rng.uniform(0, math.pi), max(4.0, 9 * scale)
        along = np.arange(wide) * math.cos(angle) + np.arange(tall)[:, None] * math.sin(angle)
        pattern = np.where(along % period < period / 2, 14, -34).astype(np.int16)
    window = pixels[placed.top : placed.top + tall, placed.left : placed.left + wide]
    window += (pattern * placed.tile)[..., None]


def _render(rng: np.random.Generator, picture: Image.Image, objects: Sequence[Placed], scale: float) -> Array:
    """Shadows, then objects, then textures and a little sensor noise: (height, width, 3) uint8."""
    for placed in objects:
        if shift := round(placed.kind.shadow * scale):
            picture.paste((20, 22, 26), (placed.left + shift, placed.top + shift), _stencil(placed.tile, 120))
    for placed in objects:
        _paint(picture, placed)
    pixels = np.asarray(picture).astype(np.int16)
    for placed in objects:
        if placed.kind.texture:
            _texture(rng, pixels, placed, scale)
    pixels += rng.integers(-5, 6, (*pixels.shape[:2], 1), dtype=np.int16)
    return np.clip(pixels, 0, 255).astype(np.uint8)


# Truth.


def _polygon(placed: Placed, land_cover: bool) -> list[float]:
    """Clockwise corners: see Scene."""
    tall, wide = placed.tile.shape
    left, top, right, bottom = placed.left, placed.top, placed.left + wide, placed.top + tall
    first = placed.layers[0][0]
    extents = (*first.min(axis=0), *first.max(axis=0))
    whole = np.abs(np.subtract(extents, (left, top, right, bottom))).max() <= 1
    if whole and (len(first) == 4 or (land_cover and placed.kind.surface)):
        corners = first
    else:
        corners = _extremes(np.concatenate([points for points, _ in placed.layers]))
        if len(first) >= ROUND or _area(corners) < 0.4 * np.count_nonzero(placed.tile):
            corners = _points((left, top), (right, top), (right, bottom), (left, bottom))
    exact = np.clip(np.round(corners, 2), (left, top), (right, bottom))
    return [float(value) for value in exact.ravel()]


def _extremes(points: Array) -> Array:
    """The topmost, rightmost, bottommost and leftmost point."""
    return np.asarray(
        points[[points[:, 1].argmin(), points[:, 0].argmax(), points[:, 1].argmax(), points[:, 0].argmin()]]
    )


def _area(polygon: Array) -> float:
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _box(placed: Placed, noun: str, land_cover: bool) -> Box:
    tall, wide = placed.tile.shape
    left, top = float(placed.left), float(placed.top)
    return Box(noun, noun, left, top, left + wide, top + tall, _polygon(placed, land_cover))


def draw(
    nouns: Sequence[str],
    seed: int,
    width: int = 256,
    height: int = 256,
    most: int = 12,
    land_cover: bool = False,
) -> Scene:
    """Draw one scene of 1 to 4 of `nouns` and 1 to `most` objects (land cover: 3 to 5 classes).

    nouns: all different; their order counts. width, height: pixels, 32 or more; sizes of objects scale with
    the shorter side. No object touches another or the border: there are at least 3 background pixels
    between any two, and 2 along the border. Where there is no room, fewer objects are drawn than chosen.
    Land cover fills more of the scene with irregular patches; some have a hole, and some holes an island of
    another class. Equal arguments give equal pixels.

    Raises RecipeError where `nouns` is empty, ValueError for an image or a `most` that is too small.
    """
    if not nouns:
        raise RecipeError("no class to draw: the recipe's [classes] names none")
    if min(width, height) < 32 or most < 1:
        raise ValueError(
            f"cannot draw {most} objects in {width}x{height} pixels: give 1 or more in 32x32 or more"
        )
    digest = hashlib.sha256("\n".join(nouns).encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8])])
    kinds = [_kind(noun) for noun in nouns]
    scale = min(width, height) / SIDE
    blocked = np.ones((height, width), dtype=bool)
    blocked[BORDER : height - BORDER, BORDER : width - BORDER] = False
    water = np.zeros((height, width), dtype=bool)
    if land_cover:
        setting = ground = "open ground"
        objects = _cover(rng, kinds, most, blocked, scale)
    else:
        wanted = _choose(rng, kinds, most)
        setting, ground, water = _setting(rng, [kinds[index] for index in wanted], nouns, water)
        taken = {"land": blocked | water, "water": blocked | ~water}
        objects = _scatter(rng, wanted, kinds, taken, scale)
    pixels = _render(rng, _backdrop(rng, ground, water, scale), objects, scale)
    mask = np.full((height, width), -1, dtype=np.int16)
    for placed in objects:
        tall, wide = placed.tile.shape
        window = mask[placed.top : placed.top + tall, placed.left : placed.left + wide]
        window[placed.tile] = placed.class_index
    boxes = [_box(placed, nouns[placed.class_index], land_cover) for placed in objects]
    return Scene(pixels, boxes, mask, setting)


def _setting(
    rng: np.random.Generator, kinds: Sequence[Kind], nouns: Sequence[str], water: Array
) -> tuple[str, str, Array]:
    """The setting's name, the ground's, and where the water is."""
    homes = {kind.home for kind in kinds}
    if homes == {"water"}:
        return "water", "water", ~water
    said = " ".join(nouns)
    grounds = [ground for ground in _LAND if not ("parking" in ground and "parking" in said)]
    ground = grounds[int(rng.integers(len(grounds)))]
    if homes == {"land"}:
        return ground, ground, water
    return "the coast", ground, _shore(rng, water.shape[1], water.shape[0])


# Captions.

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MANY = ("many", "lots of", "a large number of")

_WHERE: dict[str, tuple[str, ...]] = {
    "grassland": ("on the grassland", "on the green meadow", "on a piece of grassland"),
    "bare soil": ("on the bare soil", "on the bare ground", "on a piece of bare land"),
    "concrete": ("on the concrete", "on the concrete ground"),
    "a parking lot": ("in a parking lot", "in the parking lot"),
    "water": ("in the water", "on the water", "in the dark blue water"),
    "the coast": ("near the coast", "along the coast"),
    "open ground": ("on open ground", "on the open ground"),
}

_ROWS = ("top", "", "bottom")
_COLUMNS = ("left", "", "right")


class _Counted(NamedTuple):
    """One class of a scene: its boxes, and the phrase that counts them."""

    noun: str
    boxes: list[Box]
    phrase: str
    verb: str


def _pick(rng: random.Random, items: Sequence[str]) -> str:
    return items[int(rng.random() * len(items))]


def describe(scene: Scene, rng: random.Random, words: Words | None = None) -> list[str]:
    """Five captions in the manner of RSICD: lower case, " ." at the end, each true of the scene.

    Counts up to ten are exact and in words, above that "many" or the like. At least two of the five name
    every class; the others tell where one class is, what stands near what, or the setting. A caption may
    come twice. words: plurals and mass nouns of the recipe; without it those of inflect.
    """
    from rsdata import words as english

    counted = _count(scene, rng, words or english.Words())
    where = _pick(rng, _WHERE[scene.setting])
    whole = _about_all(counted, where)
    parts = _about_one(counted, where, scene) + _about_pairs(counted, scene)
    captions = [_take(rng, whole) for _ in range(2)]
    captions += [_take(rng, parts) if parts and rng.random() < 0.8 else _take(rng, whole) for _ in range(3)]
    return [f"{caption} ." for caption in captions]


def _take(rng: random.Random, sentences: list[str]) -> str:
    """Draw one and take it out, unless it is the last."""
    index = int(rng.random() * len(sentences))
    return sentences.pop(index) if len(sentences) > 1 else sentences[0]


def _count(scene: Scene, rng: random.Random, words: Words) -> list[_Counted]:
    """The classes of a scene, most numerous first, then by noun."""
    groups: dict[str, list[Box]] = {}
    for box in scene.boxes:
        groups.setdefault(box.label, []).append(box)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        _Counted(noun, boxes, _phrase(noun, len(boxes), rng, words), "is" if len(boxes) == 1 else "are")
        for noun, boxes in ordered
    ]


def _phrase(noun: str, count: int, rng: random.Random, words: Words) -> str:
    """A counted noun, at times with its colour: "a white plane", "three white planes", "many planes"."""
    colour = _kind(noun).colour if rng.random() < 0.5 and not words.is_mass(noun) else ""
    if words.is_mass(noun):
        one, several = f"an area of {noun}", f"areas of {noun}"
    else:
        one, several = f"{colour} {noun}".strip(), f"{colour} {words.plural(noun)}".strip()
        one = f"{words.article(one)} {one}"
    if count == 1:
        return one
    return f"{NUMBERS[count] if count < len(NUMBERS) else _pick(rng, _MANY)} {several}"


def _about_all(counted: Sequence[_Counted], where: str) -> list[str]:
    from rsdata.words import listing

    things, first = listing([item.phrase for item in counted]), counted[0].verb
    all_verb = first if len(counted) == 1 else "are"
    return [
        f"there {first} {things} in this image",
        f"there {first} {things} {where}",
        f"{things} {all_verb} {where}",
        f"{things} can be seen {where}",
        f"an overhead view of {things}",
        f"we can see {things} in the picture",
    ]


def _about_one(counted: Sequence[_Counted], where: str, scene: Scene) -> list[str]:
    said = []
    for _, boxes, phrase, verb in counted:
        said += [f"{phrase} {verb} {where}", f"{phrase} {where}"]
        place = _place_of(boxes, scene)
        if place:
            said += [f"{phrase} {verb} {place} of the image", f"there {verb} {phrase} {place} of the picture"]
        elif _scattered(boxes, scene):
            said += [f"{phrase} are scattered {where}", f"{phrase} are scattered over the image"]
    return said


def _about_pairs(counted: Sequence[_Counted], scene: Scene) -> list[str]:
    """Of each two classes: that each object has one of the other class close by, or all lie to one side."""
    said = []
    for a in counted:
        for b in counted:
            if a.noun == b.noun:
                continue
            if _together(a.boxes, b.boxes, 0.15 * min(_size(scene))):
                said += [f"{a.phrase} {a.verb} near {b.phrase}", f"{a.phrase} {a.verb} next to {b.phrase}"]
            if max(x.xmax for x in a.boxes) < min(y.xmin for y in b.boxes):
                said.append(f"{a.phrase} {a.verb} to the left of {b.phrase}")
            if max(x.ymax for x in a.boxes) < min(y.ymin for y in b.boxes):
                said.append(f"{a.phrase} {a.verb} above {b.phrase}")
    return said


def _together(some: Sequence[Box], others: Sequence[Box], reach: float) -> bool:
    gaps = np.array([[_distance(a, b) for b in others] for a in some])
    return bool((gaps.min(axis=0) < reach).all() and (gaps.min(axis=1) < reach).all())


def _size(scene: Scene) -> tuple[int, int]:
    height, width = scene.mask.shape
    return width, height


def _distance(a: Box, b: Box) -> float:
    """Between the edges of two boxes, in pixels; 0 where they overlap."""
    across = max(a.xmin - b.xmax, b.xmin - a.xmax, 0.0)
    return math.hypot(across, max(a.ymin - b.ymax, b.ymin - a.ymax, 0.0))


def _third(low: float, high: float, size: int) -> int | None:
    """Which third of the axis holds all of low to high: 0, 1, 2, or None."""
    first, last = int(3 * low / size), int(3 * high / size)
    return first if first == last else None


def _place_of(boxes: Sequence[Box], scene: Scene) -> str:
    """Where the centres of all the boxes lie, by thirds of the image; "" where they do not lie together."""
    width, height = _size(scene)
    x = [(box.xmin + box.xmax) / 2 for box in boxes]
    y = [(box.ymin + box.ymax) / 2 for box in boxes]
    column, row = _third(min(x), max(x), width), _third(min(y), max(y), height)
    if column == row == 1:
        return "in the middle"
    if row in (0, 2) and column in (0, 2):
        return f"in the {_ROWS[row or 0]} {_COLUMNS[column or 0]} corner"
    if row in (0, 2):
        return f"at the {_ROWS[row or 0]}"
    if column in (0, 2):
        return f"on the {_COLUMNS[column or 0]} side"
    return ""


def _scattered(boxes: Sequence[Box], scene: Scene) -> bool:
    """Whether the centres lie in at least three quarters of the image."""
    width, height = _size(scene)
    return len({(box.xmin + box.xmax > width, box.ymin + box.ymax > height) for box in boxes}) > 2
