"""Draw a small visible label, such as "AI generated", into a corner of every frame.

The label keeps to the area that apps leave free, and moves to another corner where it would cover the mouth. Pillow
draws the label once; each frame gets it blended in.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lipsync_server.errors import InvalidInput
from lipsync_server.media.captions.fonts import Fonts, load
from lipsync_server.media_types import Frames

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the frame, 0 to 1."""

_SIZE: Final = 0.035
"""Height of the letters as a share of the frame's shorter side."""
_SMALLEST_PX: Final = 10
_WIDEST: Final = 0.6
_IS_VERTICAL: Final = 1.3
_MARGINS: Final = (0.03, 0.03, 0.03)
"""Free space at the sides, above and below, as shares of the frame."""
_MARGINS_VERTICAL: Final = (0.05, 0.12, 0.22)
"""Apps for vertical video draw their own texts over the highest tenth and the lowest fifth."""


class Label:
    """The label of one video. text: one line. corner: such as "top-left". mouth: a box to keep free, if known.

    Raises InvalidInput if no font has one of the letters.
    """

    def __init__(self, text: str, corner: str, width: int, height: int, fonts: Fonts, mouth: Box | None = None) -> None:
        size = max(_SMALLEST_PX, round(_SIZE * min(width, height)))
        picture = _drawn(text, size, fonts)
        if picture.width > _WIDEST * width:
            picture = _drawn(text, max(6, int(size * _WIDEST * width / picture.width)), fonts)
        picture = picture.crop((0, 0, min(picture.width, width), min(picture.height, height)))
        self.left, self.top = _place(picture.size, corner, width, height, mouth)
        rgba = np.asarray(picture, np.float32)
        alpha = rgba[..., 3:] / 255
        self._colour: NDArray[np.float32] = (rgba[..., :3] * alpha).astype(np.float32)
        self._keep: NDArray[np.float32] = (1 - alpha).astype(np.float32)

    def draw_on(self, frames: Frames) -> Frames:
        """A copy of `frames` (n, H, W, 3) with the label."""
        out = frames.copy()
        height, width = self._colour.shape[:2]
        part = out[:, self.top : self.top + height, self.left : self.left + width]
        part[...] = np.clip(part * self._keep + self._colour + 0.5, 0, 255).astype(np.uint8)
        return out


def check_label(text: str, fonts: Fonts) -> None:
    """Raise InvalidInput if no font has one of the letters of `text`."""
    try:
        fonts.runs(text)
    except InvalidInput as error:
        sentence = error.detail.partition(". ")[0]
        raise InvalidInput(
            f"{sentence}. Write the label with other letters, or install a font that has them.", field="label"
        ) from error


def _drawn(text: str, size: int, fonts: Fonts) -> Image.Image:
    """White letters on a dark box with round corners."""
    pad = max(3, size // 3)
    runs = [(run, *load(file, size)) for run, file in fonts.runs(text)]
    length = sum(font.getlength(run) * scale for run, font, scale in runs)
    picture = Image.new("RGBA", (max(1, round(length)) + 2 * pad, round(size * 1.3) + pad), (0, 0, 0, 0))
    canvas = ImageDraw.Draw(picture)
    canvas.rounded_rectangle((0, 0, picture.width - 1, picture.height - 1), radius=pad, fill=(0, 0, 0, 150))
    x = float(pad)
    for run, font, scale in runs:
        canvas.text((x, pad // 2 + size), run, font=font, fill=(255, 255, 255, 235), anchor="ls", embedded_color=True)
        x += font.getlength(run) * scale
    return picture


def _place(size: tuple[int, int], corner: str, width: int, height: int, mouth: Box | None) -> tuple[int, int]:
    """Left and top of the label: the wanted corner, or the first one in which the mouth stays free."""
    side, above, below = _MARGINS_VERTICAL if height / width > _IS_VERTICAL else _MARGINS
    lefts = {"left": round(side * width), "right": width - size[0] - round(side * width)}
    tops = {"top": round(above * height), "bottom": height - size[1] - round(below * height)}
    places = {f"{y}-{x}": (max(0, left), max(0, top)) for y, top in tops.items() for x, left in lefts.items()}
    order = [corner, *(name for name in places if name != corner)]

    def covers(place: tuple[int, int]) -> bool:
        if mouth is None:
            return False
        left, top, right, bottom = mouth[0] * width, mouth[1] * height, mouth[2] * width, mouth[3] * height
        return place[0] < right and place[0] + size[0] > left and place[1] < bottom and place[1] + size[1] > top

    return next((places[name] for name in order if not covers(places[name])), places[corner])
