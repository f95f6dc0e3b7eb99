"""The public reference's own rules where ours differ: the yardsticks of the golden data."""

from lipsync_server.engines.base import Box
from lipsync_server.errors import InvalidInput
from lipsync_server.models.sampling.windows import MOTION_FRAMES, WINDOW_FRAMES, Schedule, Window, schedule

# The reference lengthens the audio by three frames more than the last window needs.
_MARGIN = 3


def reference_box(box: Box) -> Box:
    """A box of the reference's JSON (top, left, bottom, right) as (left, top, right, bottom), and back."""
    return box[1], box[0], box[3], box[2]


def reference_schedule(
    audio_frames: tuple[int, ...],
    *,
    window_frames: int = WINDOW_FRAMES,
    motion_frames: int = MOTION_FRAMES,
    max_frames: int = 1000,
) -> Schedule:
    """The public reference's windows, with its refusals and its cut to the last person's length."""
    schedule(1, window_frames=window_frames, motion_frames=motion_frames)  # refuses the same sizes
    if min(audio_frames) <= window_frames:
        raise InvalidInput(f"The reference needs more than {window_frames} frames of audio, not {min(audio_frames)}.")
    windows: list[Window] = [Window(0, 0, window_frames, 0, window_frames)]
    mirrored = [0] * len(audio_frames)
    last = max_frames <= window_frames
    while not last:
        start = windows[-1].start + window_frames - motion_frames
        end = start + window_frames
        windows.append(Window(len(windows), start, window_frames, motion_frames, window_frames))
        last = end >= min(max_frames, audio_frames[0])
        if last:
            mirrored = [min(end - n + _MARGIN, n) if end >= n else 0 for n in audio_frames]
    n_frames = min(windows[-1].start + window_frames, max_frames)
    if max_frames > window_frames and any(mirrored):
        n_frames = min(n_frames, audio_frames[-1])
    # The reference makes every window, also windows whose frames are all cut.
    kept = [
        Window(w.index, w.start, w.n_frames, w.keep_first, max(w.keep_first, min(w.keep_stop, n_frames - w.start)))
        for w in windows
    ]
    return Schedule(tuple(kept), n_frames, motion_frames, audio_frames, tuple(mirrored))
