"""The contact sheet of a check: a JPEG with pictures of the video, the mouth's curves, and the findings."""

from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lipsync_server.check import mouth
from lipsync_server.check.mouth import Curve
from lipsync_server.check.quality import Quality, sentences
from lipsync_server.check.watch import FPS, Seen
from lipsync_server.durable import write_file

_CELL_PX: Final = 220
_COLUMNS: Final = 6
_PLOT_PX: Final = 120
_LINE_PX: Final = 20
_MAX_LINES: Final = 12


def write_sheet(path: Path, seen: Seen, expected: Curve | None, quality: Quality) -> None:
    """Write the sheet as a JPEG. The file `path` appears only when it is complete."""
    rows = -(-len(seen.pictures) // _COLUMNS)
    cell_height = _cell_height(seen)
    lines = sentences(quality)[:_MAX_LINES]
    width = _COLUMNS * _CELL_PX
    height = rows * cell_height + _PLOT_PX + _LINE_PX * (len(lines) + 1)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=14)
    for i, (time_s, frame) in enumerate(seen.pictures):
        small = cv2.resize(frame, (_CELL_PX - 2, cell_height - 2), interpolation=cv2.INTER_AREA)
        place = (i % _COLUMNS * _CELL_PX, i // _COLUMNS * cell_height)
        image.paste(Image.fromarray(small), place)
        draw.text((place[0] + 4, place[1] + 2), f"{time_s:.1f} s", fill="white", stroke_width=2, stroke_fill="black",
                  font=font)  # fmt: skip
    top = rows * cell_height
    draw.text((4, top + 2), "mouth: expected from the sound (grey), seen (red)", fill="black", font=font)
    for curve, colour in ((expected, "#999999"), (mouth.on_grid(seen.opening, FPS), "#cc2222")):
        if curve is not None and len(curve) > 1:
            draw.line(_plot(curve, width, top + 22, _PLOT_PX - 26), fill=colour, width=2)
    for i, line in enumerate(lines):
        draw.text((4, top + _PLOT_PX + i * _LINE_PX), line, fill="black", font=font)
    write_file(path, partial(_save, image))


def _save(image: Image.Image, file: BinaryIO) -> None:
    image.save(file, "JPEG", quality=85)


def _cell_height(seen: Seen) -> int:
    """Height of a cell of the sheet in pixels, for the shape of the video's frames."""
    if not seen.pictures:
        return _CELL_PX
    height, width = seen.pictures[0][1].shape[:2]
    return max(40, round(_CELL_PX * int(height) / int(width)))


def _plot(curve: Curve, width: int, top: int, height: int) -> list[tuple[float, float]]:
    """The curve as points, at most one for each pixel, scaled to its own range."""
    n = min(width, len(curve))
    values = curve[np.linspace(0, len(curve) - 1, n).astype(int)]
    low, high = np.percentile(values, [2, 98])
    scaled = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1)
    return [(i * width / n, top + (1 - float(v)) * height) for i, v in enumerate(scaled)]
