"""Reads a video that was given as the picture (dubbing): its facts, its first frame, and frames at given times.

Opens MP4, MOV and WebM only, with one demuxer each and a closed list of decoders, as formats/ffmpeg.py does. Frames
come out as still.py's pictures do: uint8 RGB, upright.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, VideoReformatter

from lipsync_server.errors import InvalidImage, UnsupportedMedia
from lipsync_server.media.formats.container import sniff
from lipsync_server.media.formats.ffmpeg import VIDEO_DECODERS, open_av
from lipsync_server.media.formats.structure import check_structure
from lipsync_server.media.formats.untouched import before_decoding
from lipsync_server.media.picture.hdr import is_hdr, tone_map
from lipsync_server.media_types import Frames

MAX_PIXELS = 16_000_000
"""A frame of this many pixels is beyond 4K. A larger frame is a mistake or an attack on the server's memory."""
_MIN_SIDE = 32
_COVER = Disposition.attached_pic


@dataclass(frozen=True)
class PictureVideoInfo:
    """A video that a caller may send in place of the picture. width, height: of the upright frame."""

    width: int
    height: int
    fps: float
    duration_s: float
    codec: str


def probe_picture_video(path: Path, *, max_pixels: int = MAX_PIXELS) -> PictureVideoInfo:
    """Check that `path` is a video whose first frame can be used.

    Raises UnsupportedMedia for a file that is no MP4, MOV or WebM, InvalidImage for a video that is damaged, cut off,
    without a video track or larger than `max_pixels` a frame.
    """
    with _opened(path, max_pixels) as (opened, stream):
        frame = next(_decoded(opened, stream), None)
        if frame is None:
            raise InvalidImage("No frame of the video can be decoded. Export it again as an mp4 (H.264).")
        height, width = _upright(frame).shape[:2]
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if not seconds and opened.duration:
            seconds = opened.duration / av.time_base
        return PictureVideoInfo(width, height, float(stream.average_rate or 0), seconds, stream.codec_context.name)


def first_frame(path: Path, *, max_pixels: int = MAX_PIXELS) -> Frames:
    """The first frame as uint8 RGB (H, W, 3), upright. Raises as probe_picture_video does."""
    with _opened(path, max_pixels) as (opened, stream):
        for frame in _decoded(opened, stream):
            return _upright(frame)
    raise InvalidImage("No frame of the video can be decoded. Export it again as an mp4 (H.264).")


def read_video_frames(
    path: Path, indices: Iterable[int], *, fps: float = 25, max_pixels: int = MAX_PIXELS, max_side: int | None = None
) -> Iterator[Frames]:
    """For each index i the frame that is on screen at i / fps seconds, as uint8 RGB (H, W, 3), upright.

    max_side: larger frames are scaled down to this length of the longer side. The video may have any frame rate. Past
    its end the last frame is repeated. Rising indices are read in one pass; a falling index starts again from the
    beginning. Holds two frames in memory. Raises as probe_picture_video does.
    """
    waiting = iter(indices)
    index = next(waiting, None)
    while index is not None:
        previous = index
        with _opened(path, max_pixels) as (opened, stream):
            current: av.VideoFrame | None = None
            start: float | None = None
            for upcoming in _decoded(opened, stream):
                time = upcoming.time or 0.0
                start = time if start is None else start
                while index is not None and index >= previous and current is not None:
                    if index / fps >= time - start - 1e-6:
                        break
                    yield _upright(current, max_side)
                    previous, index = index, next(waiting, None)
                if index is None or index < previous:
                    break
                current = upcoming
            if current is None:
                raise InvalidImage("No frame of the video can be decoded. Export it again as an mp4 (H.264).")
            while index is not None and index >= previous:
                yield _upright(current, max_side)
                previous, index = index, next(waiting, None)


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    container = sniff(path) if path.stat().st_size else None
    if container not in ("mov", "matroska"):
        raise UnsupportedMedia("The file is no video that this server reads. Send mp4, mov or webm.")
    with path.open("rb") as file:
        with before_decoding():
            check_structure(file, path.stat().st_size, container, error=InvalidImage)
        file.seek(0)
        try:
            opened = open_av(file, container, VIDEO_DECODERS)
        except (av.FFmpegError, OSError, ValueError) as problem:
            raise InvalidImage(f"The video is damaged or cut off ({problem}). Send the whole file again.") from None
        with opened:
            # The cover picture of a song is stored as a video track, but it is no video.
            stream = next((track for track in opened.streams.video if not track.disposition & _COVER), None)
            if stream is None:
                raise UnsupportedMedia("The file has sound but no picture. Send a picture or a video.")
            context = stream.codec_context
            if context is None or context.name not in VIDEO_DECODERS:
                raise UnsupportedMedia("The video's codec is not read. Export it as an mp4 (H.264).")
            if context.width * context.height > max_pixels or min(context.width, context.height) < _MIN_SIDE:
                raise InvalidImage(
                    f"The video is {context.width} x {context.height} pixels; sides of at least {_MIN_SIDE} and at most"
                    f" {max_pixels / 1e6:.0f} million pixels are accepted. Scale it and send it again."
                )
            yield opened, stream


def _decoded(opened: "av.container.InputContainer", stream: "av.VideoStream") -> Iterator["av.VideoFrame"]:
    """All frames that can be decoded; damaged ones are skipped, as a player does."""
    packets = opened.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError:
            continue
        yield from frames


def _upright(frame: "av.VideoFrame", max_side: int | None = None) -> Frames:
    """The frame as uint8 RGB (H, W, 3), turned upright; an HDR frame is converted, and not scaled."""
    if is_hdr(frame):
        rgb = tone_map(frame)
    else:
        scale = min(1.0, max_side / max(frame.width, frame.height)) if max_side else 1.0
        width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
        converted = VideoReformatter().reformat(frame, width, height, format="rgb24", dst_color_range=ColorRange.JPEG)
        rgb = np.asarray(converted.to_ndarray(), dtype=np.uint8)
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)), dtype=np.uint8)
