"""A poster and a short moving preview of a finished video, for pages, chats and mails.

They are made at the first request, so other jobs take no time for them. Knows files; does not know jobs.
"""

from pathlib import Path
from typing import Final

from PIL import Image

from lipsync_server.durable import publish
from lipsync_server.errors import InvalidInput
from lipsync_server.media.framing.wishes import Still
from lipsync_server.media.picture.video import read_video_frames

MAX_PREVIEW_BYTES: Final = 3_000_000
_PREVIEW_S: Final = 4.0
_MAX_PIXELS: Final = 64_000_000
_SIZES: Final = ((480, 12.5), (360, 12.5), (288, 10.0), (224, 8.0), (160, 5.0), (96, 4.0))
"""Longer side in pixels and frames a second, from the best to one whose 16 frames of noise stay below the limit."""
_N_COLOURS: Final = 128
_N_PALETTE_FRAMES: Final = 5


POSTERS: Final[dict[str, Still]] = {".jpg": "poster.jpg", ".jpeg": "poster.jpg"}
PREVIEWS: Final[dict[str, Still]] = {".webp": "preview.webp", ".gif": "preview.gif"}


def kind_of(path: Path, kinds: dict[str, Still]) -> Still:
    """The kind of a file by its ending. Raises InvalidInput with the endings that `kinds` has."""
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise InvalidInput(f"{path} has to end in {' or '.join(kinds)}.")
    return kind


def write_still(video: Path, output: Path, kind: Still, *, duration_s: float) -> int:
    """Write a still of the MP4 `video` to `output`, which appears when it is complete. Returns its size in bytes.

    poster.jpg: the first frame at the video's size. preview.*: up to the first 4 s, without sound, in a loop.
    """
    partial = output.with_name(f".{output.name}.part")
    try:
        if kind == "poster.jpg":
            (frame,) = read_video_frames(video, (0,), fps=25.0, max_pixels=_MAX_PIXELS)
            Image.fromarray(frame).save(partial, format="JPEG", quality=90, optimize=True, progressive=True)
        else:
            _write_preview(video, partial, kind, min(duration_s, _PREVIEW_S))
        publish(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return output.stat().st_size


def _write_preview(video: Path, output: Path, kind: Still, length_s: float) -> None:
    """The largest preview below MAX_PREVIEW_BYTES."""
    for side, fps in _SIZES:
        indices = tuple(range(max(1, int(length_s * fps))))
        frames = read_video_frames(video, indices, fps=fps, max_pixels=_MAX_PIXELS, max_side=side)
        first, *others = (Image.fromarray(frame) for frame in frames)
        duration_ms = round(1000 / fps)
        if kind == "preview.gif":
            palette = _palette([first, *others])
            shown = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in (first, *others)]
            shown[0].save(
                output, format="GIF", save_all=True, append_images=shown[1:], duration=duration_ms, loop=0, disposal=1
            )
        else:
            first.save(
                output, format="WEBP", save_all=True, append_images=others, duration=duration_ms, loop=0,
                quality=70, method=4,
            )  # fmt: skip
        if output.stat().st_size < MAX_PREVIEW_BYTES:
            return


def _palette(frames: list[Image.Image]) -> Image.Image:
    """One palette for all frames, computed from a few of them.

    With one palette, still parts have the same colours in every frame, and GIF stores them once. A palette for each
    frame took 9 s of processor time for 4 s at 480 px and gave 1.7 MB; one palette takes 0.3 s and gives 0.4 MB.
    """
    picked = frames[:: -(-len(frames) // _N_PALETTE_FRAMES)]
    width, height = frames[0].size
    side_by_side = Image.new("RGB", (width * len(picked), height))
    for index, frame in enumerate(picked):
        side_by_side.paste(frame, (index * width, 0))
    return side_by_side.quantize(_N_COLOURS, dither=Image.Dither.NONE)
