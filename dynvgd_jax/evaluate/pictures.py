"""Lays out films: pictures with their captions, side by side, in strips and posters."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

CAPTION_PX = 48  # height
STRIP_TILE_PX = 176  # side of a picture in a filmstrip
_HEAD_PX, _FOOT_PX, _GAP_PX = 26, 22, 4
_BACKGROUND, _TEXT = (24, 26, 30), (235, 235, 235)
_COLOURS = {"": (96, 100, 108), "success": (64, 190, 100), "failed": (230, 86, 76)}


class Shot(NamedTuple):
    """One policy at one moment."""

    picture: np.ndarray  # [H, W, 3] uint8
    policy: str
    status: str  # key of _COLOURS: "" while nothing is decided
    step: int  # control steps since the reset
    values: dict[str, str]  # such as Q, in words


def captioned(shot: Shot) -> np.ndarray:
    """Returns `[H + CAPTION_PX, W, 3]`: policy, success, step and values above."""
    width = shot.picture.shape[1]
    image, draw = _canvas(width, CAPTION_PX)
    colour = _COLOURS[shot.status]
    draw.text((8, 5), shot.policy, _TEXT, _font(14, bold=True))
    draw.text((width - 8, 5), shot.status, colour, _font(14, bold=True), anchor="ra")
    draw.text((8, 24), _words(shot), _TEXT, _font(13))
    draw.rectangle((0, CAPTION_PX - 4, width, CAPTION_PX), colour)
    return np.concatenate([np.asarray(image), shot.picture])


def side_by_side(shots: Sequence[Shot]) -> np.ndarray:
    """Returns one frame: the policies at the same moment, from left to right."""
    return np.concatenate([captioned(shot) for shot in shots], axis=1)


def poster(frames: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Returns the frames `[H, W, 3]` under their titles, two in a row."""
    titled = [
        np.concatenate([_heading(title, frame.shape[1]), frame])
        for frame, title in zip(frames, titles, strict=True)
    ]
    columns = min(2, len(titled))
    missing = -len(titled) % columns
    titled += [np.full_like(titled[0], _BACKGROUND)] * missing
    rows = [_beside(titled[i : i + columns]) for i in range(0, len(titled), columns)]
    return np.concatenate(rows)


def filmstrip(title: str, rows: Sequence[Sequence[Shot]]) -> np.ndarray:
    """Returns a strip of a film: a row of shots for each policy."""
    parts = []
    for shots in rows:
        tiles = [_tile(shot) for shot in shots]
        row, last = _beside(tiles), shots[-1]
        heading = _heading(
            f"{title}   {last.policy}", row.shape[1], last.status or "not decided"
        )
        parts += [heading, row]
    return np.concatenate(parts)


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes `[H, W, 3]` uint8."""
    Image.fromarray(image).save(path, optimize=True)


def _tile(shot: Shot) -> np.ndarray:
    picture = Image.fromarray(shot.picture)
    picture = picture.resize((STRIP_TILE_PX, STRIP_TILE_PX), Image.Resampling.LANCZOS)
    image, draw = _canvas(STRIP_TILE_PX, _FOOT_PX)
    draw.rectangle((0, 0, STRIP_TILE_PX, 3), _COLOURS[shot.status])
    draw.text((4, 6), _words(shot), _TEXT, _font(11))
    return np.concatenate([np.asarray(picture), np.asarray(image)])


def _heading(title: str, width: int, status: str = "") -> np.ndarray:
    image, draw = _canvas(width, _HEAD_PX)
    draw.text((6, 6), title, _TEXT, _font(13, bold=True))
    colour = _COLOURS.get(status, _TEXT)
    draw.text((width - 6, 6), status, colour, _font(13, bold=True), anchor="ra")
    return np.asarray(image)


def _beside(images: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((len(images[0]), _GAP_PX, 3), _BACKGROUND, np.uint8)
    parts = [part for image in images for part in (gap, image)][1:]
    return np.concatenate(parts, axis=1)


def _words(shot: Shot) -> str:
    parts = [f"step {shot.step}", *(f"{k} {v}" for k, v in shot.values.items())]
    return "   ".join(parts)


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), _BACKGROUND)
    return image, ImageDraw.Draw(image)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along; it has Greek letters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts/ttf" / name
    return ImageFont.truetype(str(path), size)
