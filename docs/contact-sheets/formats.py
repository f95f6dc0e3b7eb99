"""Draw formats.jpg: five pictures in each shape that a video can have, and what a second of frames costs.

Columns: the picture, 9:16, 4:5, 1:1, 16:9 with a blurred and with a plain background. The frames are the still picture;
a picture that is cut is cut before an engine would see it.

    python docs/contact-sheets/formats.py
"""

import time
from pathlib import Path

import numpy as np
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import EngineOptions, RenderRequest
from lipsync_server.media.framing.wishes import Fill, VideoFormat
from lipsync_server.workers.rendering.framing import VideoFraming
from PIL import Image

HERE = Path(__file__).parent
PICTURES = ("glasses.jpg", "beard-and-full-figure.jpg", "several-people.jpg", "elder.jpg", "young-man.jpg")
SHAPES: tuple[tuple[VideoFormat, Fill], ...] = (
    ("9:16", "blur"), ("4:5", "blur"), ("1:1", "blur"), ("16:9", "blur"), ("16:9", "plain"),
)  # fmt: skip
ROW_PX = 240
HEIGHT_PX = 720
FPS = 25


def framed(picture: np.ndarray, wanted: VideoFormat, fill: Fill) -> tuple[np.ndarray, float]:
    """The picture in the wanted shape, and seconds for a second of frames."""
    framing = VideoFraming(Ask(format=wanted, fill=fill, height=HEIGHT_PX), print)
    request = framing.cut(RenderRequest(picture, np.zeros(16_000, np.float32), 1.0, EngineOptions()))
    frames = np.repeat(request.picture[None], FPS, axis=0)
    started = time.perf_counter()
    fitted = framing.fit(frames)
    return fitted[0], time.perf_counter() - started


def main() -> None:
    rows, times = [], dict.fromkeys(SHAPES, 0.0)
    for name in PICTURES:
        picture = np.asarray(Image.open(HERE / "portraits" / name).convert("RGB"))
        shown = [picture]
        for shape in SHAPES:
            frame, took_s = framed(picture, *shape)
            shown.append(frame)
            times[shape] += took_s / len(PICTURES)
        rows.append(
            [Image.fromarray(one).resize((round(one.shape[1] * ROW_PX / one.shape[0]), ROW_PX)) for one in shown]
        )
    gap = 6
    widths = [max(row[column].width for row in rows) for column in range(len(rows[0]))]
    sheet = Image.new("RGB", (sum(widths) + gap * len(widths), (ROW_PX + gap) * len(rows)), "white")
    for y, row in enumerate(rows):
        for column, one in enumerate(row):
            sheet.paste(one, (sum(widths[:column]) + gap * column, y * (ROW_PX + gap)))
    sheet.save(HERE / "formats.jpg", quality=82)
    for (wanted, fill), took_s in times.items():
        print(f"{wanted:5} {fill:5} {took_s:.3f} s for a second of {FPS} frames of {HEIGHT_PX} lines")


if __name__ == "__main__":
    main()
