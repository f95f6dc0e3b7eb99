"""Draw captions into frames: three styles, in places that apps leave free, never over the mouth.

Pillow draws, and its library raqm shapes and joins letters, so that Arabic, Devanagari and similar scripts are correct.
A caption is drawn once and blended into each of its frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lipsync_server.media.captions.cues import FEW_WORDS, Cue, Shape, cues_of
from lipsync_server.media.captions.fonts import Fonts, load
from lipsync_server.media.captions.script import is_right_to_left
from lipsync_server.media.captions.wishes import CaptionStyle
from lipsync_server.media.info import HeardWord
from lipsync_server.media_types import Frames

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the frame, 0 to 1."""
Colour = tuple[int, int, int, int]

_WHITE: Final[Colour] = (255, 255, 255, 255)
_BLACK: Final[Colour] = (0, 0, 0, 255)
_YELLOW: Final[Colour] = (255, 214, 10, 255)
_BOX: Final[Colour] = (0, 0, 0, 170)
_WIDEST: Final = 0.86
"""Share of the frame's width that a line may fill; apps for vertical video draw buttons into the rest."""
_LINE_HEIGHT: Final = 1.28
_IS_VERTICAL: Final = 1.3
_KEEP_FROM_MOUTH: Final = 0.02


@dataclass(frozen=True)
class _Look:
    """A style. size: of the letters, as a share of the frame's shorter side. outline: share of that size."""

    size: float
    outline: float
    shape: Shape
    boxed: bool = False
    highlights: bool = False


_LOOKS: Final[dict[CaptionStyle, _Look]] = {
    "plain": _Look(0.054, 0.09, Shape()),
    "box": _Look(0.050, 0.0, Shape(), boxed=True),
    "words": _Look(0.085, 0.11, FEW_WORDS, highlights=True),
}


@dataclass(frozen=True)
class _Drawing:
    """A drawn caption. left, top: its place in the frame. colour: float32 (h, w, 3) premultiplied by alpha, 0 to 255.
    keep: float32 (h, w, 1), the share of the frame that shows through."""

    left: int
    top: int
    colour: NDArray[np.float32]
    keep: NDArray[np.float32]


@dataclass(frozen=True)
class _Placed:
    """A word on a line. x: pixels from the line's left edge."""

    timed: HeardWord
    x: float
    width: float


class BurnedCaptions:
    """Draws the captions of one video. width, height: the frames' pixels. mouth: a box to keep free, if known."""

    def __init__(
        self,
        words: Sequence[HeardWord],
        style: CaptionStyle,
        width: int,
        height: int,
        fonts: Fonts,
        mouth: Box | None = None,
    ) -> None:
        self._width, self._height, self._fonts, self._mouth = width, height, fonts, mouth
        self._look = _LOOKS[style]
        self._size = max(12, round(self._look.size * min(width, height)))
        letters = int(_WIDEST * width / (0.56 * self._size))
        shape = self._look.shape
        self._cues = cues_of(words, Shape(max(6, min(shape.n_characters, letters)), shape.n_lines))
        self._draw = lru_cache(maxsize=8)(self._drawn)

    def check_fonts(self) -> None:
        """Raise InvalidInput where a letter cannot be drawn: before work starts, not in its middle."""
        for cue in self._cues:
            for line in cue.lines:
                for timed in line:
                    self._fonts.runs(timed.text)

    def draw_on(self, frames: Frames, first: int, fps: float) -> Frames:
        """`frames` (n, H, W, 3), the first of which is frame number `first`, with their captions. The frames themselves
        stay as they are: a batch with captions is a copy."""
        drawings = [self._at((first + i) / fps) for i in range(len(frames))]
        if not any(drawings):
            return frames
        out = frames.copy()
        for frame, drawing in zip(out, drawings, strict=True):
            if drawing is not None:
                height, width = drawing.colour.shape[:2]
                part = frame[drawing.top : drawing.top + height, drawing.left : drawing.left + width]
                part[...] = np.clip(part * drawing.keep + drawing.colour + 0.5, 0, 255).astype(np.uint8)
        return out

    def _at(self, seconds: float) -> _Drawing | None:
        """The drawing that is shown at this time, or None between captions."""
        low, high = 0, len(self._cues)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._cues[middle].end_s <= seconds else (low, middle)
        if low == len(self._cues) or self._cues[low].start_s > seconds:
            return None
        return self._draw(low, self._spoken(self._cues[low], seconds) if self._look.highlights else -1)

    @staticmethod
    def _spoken(cue: Cue, seconds: float) -> int:
        """The number of the word that is heard, counted through the cue's lines."""
        words = [timed for line in cue.lines for timed in line]
        return max((i for i, timed in enumerate(words) if timed.start_s <= seconds), default=0)

    def _drawn(self, number: int, spoken: int) -> _Drawing:
        """Draw cue `number`. spoken: number of the word to highlight, -1 for none."""
        cue = self._cues[number]
        size, lines = self._laid_out(cue)
        outline = round(self._look.outline * size)
        pad = max(outline + 2, size // 3)
        step = round(size * _LINE_HEIGHT)
        widths = [max(placed.x + placed.width for placed in line) for line in lines]
        width = min(self._width, round(max(widths)) + 2 * pad)
        height = min(self._height, step * len(lines) + 2 * pad)
        picture = Image.new("RGBA", (width, height), (0, 0, 0, 0))
        canvas = ImageDraw.Draw(picture)
        at = 0
        for row, (line, line_width) in enumerate(zip(lines, widths, strict=True)):
            left = (width - line_width) / 2
            baseline = pad + row * step + round(size * 1.0)
            if self._look.boxed:
                box = (left - pad * 0.7, baseline - size * 1.02, left + line_width + pad * 0.7, baseline + size * 0.30)
                canvas.rounded_rectangle(box, radius=size // 4, fill=_BOX)
            order = {id(timed): at + i for i, timed in enumerate(cue.lines[row])}
            for placed in line:
                fill = _YELLOW if order[id(placed.timed)] == spoken else _WHITE
                self._write(picture, placed.timed.text, left + placed.x, baseline, size, fill, outline)
            at += len(line)
        left, top = (self._width - width) // 2, self._top(height)
        rgba = np.asarray(picture, np.float32)
        alpha = rgba[..., 3:] / 255
        return _Drawing(left, top, (rgba[..., :3] * alpha).astype(np.float32), (1 - alpha).astype(np.float32))

    def _laid_out(self, cue: Cue) -> tuple[int, list[list[_Placed]]]:
        """The size of the letters at which every line fits, and the lines with their words in place."""
        size = self._size
        while True:
            lines = [self._placed(line, size) for line in cue.lines]
            widest = max(line[-1].x + line[-1].width if line else 0.0 for line in lines)
            widest = max(widest, *(max(placed.x + placed.width for placed in line) for line in lines))
            if widest <= _WIDEST * self._width or size <= 6:
                return size, lines
            size = max(6, int(size * min(0.95, _WIDEST * self._width / widest)))

    def _placed(self, line: Sequence[HeardWord], size: int) -> list[_Placed]:
        """The words of a line from left to right as they are seen, in the order of the Unicode bidirectional algorithm
        (UAX 9, rule L2) with words for letters."""
        placed, x = [], 0.0
        blank = size * 0.28
        seen = _visual_order(line)
        for i, timed in enumerate(seen):
            width = self._length(timed.text, size)
            # The blank stands between two words that are neighbours in reading, whichever of them is on the left.
            neighbour = seen[i - 1] if i else None
            later = timed if neighbour is None or timed.start_s >= neighbour.start_s else neighbour
            x += blank if neighbour is not None and later.blank_before else 0.0
            placed.append(_Placed(timed, x, width))
            x += width
        return placed

    def _length(self, text: str, size: int) -> float:
        """Width of a word in pixels, with letters of `size` pixels."""
        total = 0.0
        for run, file in self._fonts.runs(text):
            font, scale = load(file, size)
            total += font.getlength(run) * scale
        return total

    def _write(
        self, picture: Image.Image, text: str, x: float, baseline: float, size: int, fill: Colour, outline: int
    ) -> None:
        """Draw a word into `picture` from pixel column `x` on, each run of letters in its own font."""
        runs = self._fonts.runs(text)
        for run, file in reversed(runs) if is_right_to_left(text) else runs:
            font, scale = load(file, size)
            length = font.getlength(run) * scale
            if scale == 1.0:
                ImageDraw.Draw(picture).text(
                    (x, baseline), run, font=font, fill=fill, anchor="ls", stroke_width=outline, stroke_fill=_BLACK,
                    embedded_color=True,
                )  # fmt: skip
            else:
                self._paste_bitmap(picture, run, x, baseline, size)
            x += length

    def _paste_bitmap(self, picture: Image.Image, run: str, x: float, baseline: float, size: int) -> None:
        """Draw emoji of a bitmap font at that font's own size, and paste them scaled."""
        font, scale = load(self._fonts.runs(run)[0][1], size)
        width, ascent, descent = round(font.getlength(run)), *font.getmetrics()
        drawn = Image.new("RGBA", (max(1, width), max(1, ascent + descent)), (0, 0, 0, 0))
        ImageDraw.Draw(drawn).text((0, ascent), run, font=font, anchor="ls", embedded_color=True)
        scaled = drawn.resize((max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))))
        picture.alpha_composite(scaled, (max(0, round(x)), max(0, round(baseline - ascent * scale))))

    def _top(self, height: int) -> int:
        """The highest pixel row of a caption: low in the picture, or where the mouth leaves room."""
        vertical = self._height / self._width > _IS_VERTICAL
        # Apps for vertical video draw texts over the lowest fifth and the highest tenth.
        shares = ((0.78, 0.90, 0.97) if vertical else (0.95, 0.985), (0.12 if vertical else 0.04, 0.02))
        tops = [round(share * self._height) - height for share in shares[0]]
        tops += [round(share * self._height) for share in shares[1]]
        inside = [min(max(0, top), self._height - height) for top in tops]
        if self._mouth is None:
            return inside[0]
        _, mouth_top, _, mouth_bottom = (share * self._height for share in self._mouth)
        gap = _KEEP_FROM_MOUTH * self._height

        def covered(top: int) -> float:
            return max(0.0, min(top + height, mouth_bottom + gap) - max(top, mouth_top - gap))

        return min(inside, key=covered)


def _visual_order(line: Sequence[HeardWord]) -> list[HeardWord]:
    """The words in their order from left to right. The line has the writing direction of its first word."""
    right_to_left = [is_right_to_left(timed.text) for timed in line]
    base = right_to_left[0]
    ordered: list[HeardWord] = []
    run: list[HeardWord] = []
    for timed, backwards in zip(line, right_to_left, strict=True):
        # A run against the direction of the line is turned around within it.
        if backwards == base:
            ordered += run[::-1]
            run = []
            ordered.append(timed)
        else:
            run.append(timed)
    ordered += run[::-1]
    return ordered[::-1] if base else ordered
