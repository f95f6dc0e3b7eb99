"""Encodes frames as H.264, in segments that survive a crash.

A segment is a small MP4 with the numbers of its frames in its name. The file gets that name by a rename after all of it
is on disk, so a file with a segment's name is always complete. Does not know sound: mux.py joins segments and sound.
"""

import functools
import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from lipsync_server.durable import publish, sync_folder
from lipsync_server.media_types import Frames

log = logging.getLogger(__name__)

_NAME = re.compile(r"^(\d{8})-(\d{8})\.mp4$")
_PARTIAL = "segment.part"
_GOP_S = 4
# On an H200's host (16 cores) 24 frames of 1024 x 1200 with a face and moving grain take 0.25 s with 4 threads, 0.17 s
# with 8 and 0.16 s with 12. FlashHead Lite makes them in 0.11 s. Each thread holds some frames.
_MAX_THREADS = 8


@dataclass(frozen=True)
class Segment:
    """Frames `start` up to, not including, `end` of the video, stored in `path`."""

    start: int
    end: int
    path: Path


def segments_in(folder: Path) -> list[Segment]:
    """The stored segments in order, from frame 0 on without a gap. Segments after a gap are left out."""
    paths = folder.iterdir() if folder.is_dir() else ()
    named = ((_NAME.match(path.name), path) for path in paths)
    stored = [Segment(int(match[1]), int(match[2]), path) for match, path in named if match]
    joined: list[Segment] = []
    for segment in sorted(stored, key=lambda segment: segment.start):
        if segment.start == (joined[-1].end if joined else 0) and segment.end > segment.start:
            joined.append(segment)
    return joined


class FrameEncoder:
    """Encodes frames into durable segments in `folder`, and continues where an interrupted run ended.

    The constructor keeps the complete segments in `folder` and removes an incomplete one; `n_frames` then counts the
    stored frames. Not safe for several threads at once.
    """

    def __init__(self, folder: Path, *, fps: int = 25, encoder: str = "libx264", crf: int = 18) -> None:
        """encoder: "libx264", or "h264_nvenc" (on the GPU), which falls back to libx264 where it cannot run.

        crf: x264's constant rate factor, 0 (no loss) to 51 (smallest file).
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._fps, self._crf = folder, fps, crf
        self._encoder = encoder
        self._open: _OpenSegment | None = None
        (folder / _PARTIAL).unlink(missing_ok=True)
        segments = segments_in(folder)
        kept = {segment.path for segment in segments}
        for path in folder.glob("*.mp4"):
            if path not in kept:
                path.unlink()
        self._n_durable = segments[-1].end if segments else 0
        self._size = _size_of(segments[0].path) if segments else None

    @property
    def n_frames(self) -> int:
        """Count of frames written so far, with the frames of the open segment."""
        return self._n_durable + (self._open.n_frames if self._open else 0)

    @property
    def n_durable(self) -> int:
        """Frames on disk, which survive a crash."""
        return self._n_durable

    def write(self, frames: Frames) -> None:
        """Encode `frames`: uint8 RGB (n, height, width, 3), with even sides and the size of all earlier frames.

        Raises ValueError for another shape, size or dtype.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(f"frames must be uint8 of shape (n, height, width, 3), not {frames.dtype} {frames.shape}")
        size = (frames.shape[2], frames.shape[1])
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"frames must have even sides, not {size[0]} x {size[1]}")
        if self._size not in (None, size):
            raise ValueError(f"frames are {size[0]} x {size[1]}, those before were {self._size}")
        if not len(frames):
            return
        self._size = size
        if self._open is None:
            self._open = self._start_segment(size)
        for frame in frames:
            self._open.write(frame)

    def end_segment(self) -> int:
        """Close the open segment and make it durable; returns the number of durable frames."""
        if self._open is None:
            return self._n_durable
        segment, self._open = self._open, None
        try:
            segment.close()
        except BaseException:
            segment.path.unlink(missing_ok=True)
            raise
        end = self._n_durable + segment.n_frames
        publish(segment.path, self._folder / f"{self._n_durable:08d}-{end:08d}.mp4")
        self._n_durable = end
        return end

    def rewind(self, n_frames: int) -> None:
        """Remove all frames from `n_frames` on, for a resume point that is older than the newest segment.

        Raises ValueError unless a segment ended at `n_frames`.
        """
        self.abort()
        segments = segments_in(self._folder)
        if n_frames not in {0, *(segment.end for segment in segments)}:
            raise ValueError(f"no segment ended at frame {n_frames}")
        for segment in reversed(segments):
            if segment.start >= n_frames:
                segment.path.unlink()
        sync_folder(self._folder)
        self._n_durable = n_frames
        self._size = self._size if n_frames else None

    def close(self) -> None:
        """End the last segment. write() may not be called afterwards."""
        self.end_segment()

    def abort(self) -> None:
        """Delete the open segment, if there is one; the stored segments stay."""
        if self._open is not None:
            segment, self._open = self._open, None
            segment.drop()

    def _start_segment(self, size: tuple[int, int]) -> "_OpenSegment":
        path = self._folder / _PARTIAL
        if self._encoder == "h264_nvenc":
            try:
                return _OpenSegment(path, size, self._fps, "h264_nvenc", _nvenc_options(self._crf))
            except (av.FFmpegError, ValueError) as problem:
                log.warning("NVENC cannot encode here (%s); using libx264", problem)
                path.unlink(missing_ok=True)
                self._encoder = "libx264"
        return _OpenSegment(path, size, self._fps, "libx264", _x264_options(self._crf))


def _x264_options(crf: int) -> dict[str, str]:
    options = {"preset": "veryfast", "crf": str(crf), "profile": "high"}
    # Equal frames must become equal bytes. x264's AVX-512 code for the macroblock tree works on eight blocks at a time
    # and does not mask the last ones: unless the width is a multiple of 128, it adds costs from beyond the row, in the
    # last row from uninitialised memory. The encoded stream then differs from run to run. The AVX2 code stops in time.
    # mbtree_propagate_list_internal in https://code.videolan.org/videolan/x264/-/blob/stable/common/x86/mc-a2.asm
    return options | ({"x264-params": "asm=AVX2"} if _has_avx512() else {})


@functools.cache
def _has_avx512() -> bool:
    """Whether x264 would use AVX-512 here. Such a processor also has everything that x264 calls AVX2."""
    with suppress(OSError):
        return re.search(r"^flags\s*:.*\bavx512bw\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE) is not None
    return False


def _nvenc_options(crf: int) -> dict[str, str]:
    return {"preset": "p4", "rc": "vbr", "cq": str(crf), "profile": "high", "forced-idr": "1"}


class _OpenSegment:
    """The segment that is being written."""

    def __init__(self, path: Path, size: tuple[int, int], fps: int, encoder: str, options: dict[str, str]) -> None:
        self.path = path
        self.n_frames = 0
        self._reformatter = VideoReformatter()
        self._container = av.open(str(path.absolute()), "w", format="mp4")
        try:
            stream = self._container.add_stream(encoder, rate=fps, options=options)
            assert isinstance(stream, av.VideoStream)
            self._stream = stream
            context = stream.codec_context
            context.width, context.height = size
            context.pix_fmt = "yuv420p"
            context.time_base = Fraction(1, fps)
            context.gop_size = _GOP_S * fps
            context.thread_count = min(_MAX_THREADS, os.cpu_count() or 1)
            context.color_range = ColorRange.MPEG
            context.colorspace = Colorspace.ITU709
            context.color_primaries = ColorPrimaries.BT709
            context.color_trc = ColorTrc.BT709
            context.open()
        except BaseException:
            self._container.close()
            raise

    def write(self, frame: Frames) -> None:
        """Encode one frame, uint8 RGB (height, width, 3), as limited-range BT.709 in yuv420p."""
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = self._reformatter.reformat(
            rgb,
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_trc=ColorTrc.BT709,
            dst_color_primaries=ColorPrimaries.BT709,
            interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
        )
        picture.pts = self.n_frames
        picture.time_base = self._stream.codec_context.time_base
        self._container.mux(self._stream.encode(picture))
        self.n_frames += 1

    def close(self) -> None:
        """Write the frames that the encoder still holds, and the file's index."""
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def drop(self) -> None:
        """Close the file and delete it."""
        with suppress(av.FFmpegError):  # perhaps the segment is deleted because the disk is full
            self._container.close()
        self.path.unlink(missing_ok=True)


def _size_of(path: Path) -> tuple[int, int]:
    """Width and height of a stored segment."""
    with av.open(str(path.absolute()), "r", format="mov") as segment:
        context = segment.streams.video[0].codec_context
        return context.width, context.height
