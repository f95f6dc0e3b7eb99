"""The calibration table of the quality check: real clips of people talking, and the same clips spoilt.

    python tests/load/check_calibration.py FOLDER

FOLDER has clips as MP4 in which picture and sound agree. Prints the table of docs/quality-check.md. The faults are made
from the decoded frames and sound: the sound moved, another clip's sound, a picture that freezes after a third, turns
black, turns to noise, drifts in colour, loses its sharpness, or flickers.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from lipsync_server.check.judge import judge
from lipsync_server.check.listen import listen
from lipsync_server.check.mouth import GRID_HZ
from lipsync_server.check.quality import Quality
from lipsync_server.check.watch import FPS, MAX_SIDE_PX, Seen, watch
from lipsync_server.engines.preview.speech import mouth_track
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import DecodeSpeech
from lipsync_server.media.sandbox.video_frames import read_video_frames, video_duration_s
from lipsync_server.media.sound.speech import map_speech
from lipsync_server.media_types import SPEECH_RATE_HZ, Frames, Speech

SHIFTS_MS = (-400, -160, -80, 80, 160, 400)
LONGEST_S = 8.0
"""Faults of the picture are tried on this much of each clip."""

Fault = Callable[[Iterator[Frames], int], Iterator[Frames]]


def frozen(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    kept: Frames | None = None
    for i, frame in enumerate(frames):
        kept = frame if i <= n // 3 else kept
        yield frame if kept is None else kept


def black(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        yield frame if i < n // 2 else np.zeros_like(frame)


def noise(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    random = np.random.default_rng(0)
    for frame in frames:
        yield random.integers(0, 256, frame.shape, np.uint8)


def colour(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        gain = 1 + 0.4 * i / n * np.array([1, 0, -1])
        yield np.clip(frame * gain, 0, 255).astype(np.uint8)


def blurred(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        yield np.asarray(cv2.GaussianBlur(frame, (0, 0), 0.1 + 3 * i / n), np.uint8)


def flicker(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        yield np.clip(frame * (1.08 if i % 2 else 0.92), 0, 255).astype(np.uint8)


FAULTS: dict[str, Fault] = {
    "freezes after a third": frozen,
    "black from the middle": black,
    "noise": noise,
    "colour drifts by 40 %": colour,
    "sharpness drifts": blurred,
    "brightness flickers by 8 %": flicker,
}


class Clip:
    """A clip's figures and sound, measured once."""

    def __init__(self, path: Path, pool: DecoderPool, scratch: Path) -> None:
        self.path = path
        self.duration_s = video_duration_s(path)
        begin = time.process_time(), time.monotonic()
        self.seen = self.look(self.duration_s)
        self.cpu_s, self.wall_s = time.process_time() - begin[0], time.monotonic() - begin[1]
        self.speech: Speech = np.array(map_speech(pool.run(DecodeSpeech(path, scratch, 3600))))

    def look(self, duration_s: float, fault: Fault | None = None) -> Seen:
        n = max(1, round(duration_s * FPS))
        frames = read_video_frames(self.path, range(n), fps=FPS, max_side=MAX_SIDE_PX)
        return watch(fault(frames, n) if fault else frames, n, 0)

    def quality(self, speech: Speech, seen: Seen | None = None) -> Quality:
        seen = seen or self.seen
        speech = np.resize(speech, round(seen.n / FPS * SPEECH_RATE_HZ)).astype(np.float32)
        n_grid = int(len(speech) / SPEECH_RATE_HZ * GRID_HZ)
        expected = mouth_track(speech, n_grid, GRID_HZ)[:, 0].astype(float)
        return judge(seen, listen(speech), expected, expects_face=True)


def moved(speech: Speech, by_ms: int) -> Speech:
    """The sound later (positive) or earlier, with silence at the end that is missing."""
    n = abs(by_ms) * SPEECH_RATE_HZ // 1000
    gap = np.zeros(n, np.float32)
    return np.concatenate([gap, speech[:-n]]) if by_ms > 0 else np.concatenate([speech[n:], gap])


def row(name: str, found: list[Quality]) -> str:
    scores = np.array([np.nan if quality.score is None else quality.score for quality in found])
    rs = np.array([np.nan if quality.mouth_r is None else quality.mouth_r for quality in found])
    low = int((scores < 0.6).sum())
    names = sorted({finding.name for quality in found for finding in quality.findings})
    r = f"{np.nanmedian(rs):.2f}" if np.isfinite(rs).any() else ""
    return (
        f"| {name} | {np.nanmin(scores):.2f} | {np.nanmedian(scores):.2f} | {np.nanmax(scores):.2f} | "
        f"{low} of {len(found)} | {r} | {', '.join(names)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    pool = DecoderPool(n_warm=1)
    with tempfile.TemporaryDirectory() as scratch:
        clips = [Clip(path, pool, Path(scratch)) for path in sorted(folder.glob("*.mp4"))]
    pool.close()
    print("| clip | score | r | lag ms | closures | findings |\n|---|---|---|---|---|---|")
    for clip in clips:
        found = clip.quality(clip.speech)
        lag = "" if found.lag_ms is None else f"{found.lag_ms:.0f}"
        names = ", ".join(finding.name for finding in found.findings)
        print(
            f"| {clip.path.stem} | {found.score} | {found.mouth_r} | {lag} | {found.closures} | {names} |", flush=True
        )
    print("\n| clips | lowest | median | highest | below 0.6 | median r | findings |\n|---|---|---|---|---|---|---|")
    print(row("as they are", [clip.quality(clip.speech) for clip in clips]))
    for ms in SHIFTS_MS:
        print(row(f"sound moved by {ms:+d} ms", [clip.quality(moved(clip.speech, ms)) for clip in clips]), flush=True)
    others = [a.quality(b.speech) for a in clips for b in clips if a is not b]
    print(row("another clip's sound", others), flush=True)
    for name, fault in FAULTS.items():
        print(
            row(name, [clip.quality(clip.speech, clip.look(min(clip.duration_s, LONGEST_S), fault)) for clip in clips]),
            flush=True,
        )
    seconds = sum(clip.duration_s for clip in clips)
    print(
        f"\nWatching took {sum(clip.cpu_s for clip in clips) / seconds:.2f} s of processor time (decoder process not "
        f"counted) and {sum(clip.wall_s for clip in clips) / seconds:.2f} s a second of video."
    )


if __name__ == "__main__":
    main()
