"""The visible label of one render, drawn between the engine and the encoder."""

from pathlib import Path

from lipsync_server.engines.ask import Ask
from lipsync_server.media.captions.fonts import Fonts
from lipsync_server.media.label import Label, check_label
from lipsync_server.media_types import Frames
from lipsync_server.workers.rendering.captions import mouth_in


class VideoLabel:
    """The label that `ask` wants, or none. fonts_dir: the owner's own fonts.

    Raises InvalidInput for a letter that no font has, before the render begins.
    """

    def __init__(self, ask: Ask, fonts_dir: Path | None) -> None:
        self._ask = ask
        self._fonts = Fonts(fonts_dir) if ask.label else None
        self._label: Label | None = None
        if self._fonts is not None:
            check_label(ask.label, self._fonts)

    @property
    def identity(self) -> tuple[str, ...]:
        """The label in the stored frames, as a part of the render's identity."""
        return (self._ask.label, self._ask.label_corner) if self._fonts is not None else ()

    def draw_on(self, frames: Frames, first: int, scratch: Path) -> Frames:
        """`frames` (n, H, W, 3) with the label. first: number of the first frame. scratch: stores the mouth's place."""
        if self._fonts is None:
            return frames
        if self._label is None:
            height, width = frames.shape[1:3]
            mouth = mouth_in(frames, first, scratch / "mouth-of-label.json")
            self._label = Label(self._ask.label, self._ask.label_corner, width, height, self._fonts, mouth)
        return self._label.draw_on(frames)
