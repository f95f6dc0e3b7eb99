"""Encoded segments and the caller's sound as one growing, fragmented MP4 that plays while it is written.

A usual MP4 can be read only when it is complete, because its index has the offset of every frame. A fragmented MP4
begins with the tracks (the box `moov`), followed by pieces, each with its own small index (`moof`) and its data
(`mdat`). A browser plays each piece as it arrives. Here one segment of the encoder becomes one piece, with the sound of
its frames:

    ftyp moov, moof mdat free, moof mdat free, ...

We add the `free` box after each piece: a player skips the box, and the box contains the number of frames up to there.
So the file itself shows its progress. Bytes after the last such box are an incomplete piece of a crashed run, and are
written again with the same content. Pictures are copied, never encoded again. Memory does not grow with the length of
the video.

The encoder's priming sound before time 0 is left out, because it needs an edit list. The finished video has it.
"""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av

from lipsync_server.durable import publish
from lipsync_server.media.mp4.encoder import Segment, segments_in
from lipsync_server.media.mp4.growing_file import MARK_BYTES, mark_of, n_frames_at
from lipsync_server.media.mp4.mux import merged, open_segment, parameter_sets, prefixed, shown_frames
from lipsync_server.media.mp4.soundtrack import add_soundtrack

# The head is written with the first frames, because it says by how much frames are decoded before they are shown.
_FLAGS = "delay_moov+default_base_moof+skip_trailer"
# Frames by which every segment is decoded ahead; more than any encoder here reorders, and the same in all pieces.
_AHEAD = 4


def append_fragments(folder: Path, audio: Path, sound: Path, stream: Path, *, fps: int, duration_s: float) -> int:
    """Append every segment in `folder` that `stream` lacks; returns the number of frames in it afterwards.

    audio: the caller's recording. sound: a file of ours with that recording as AAC, made at the first call. Frames that
    no segment continues are left out. Raises what media/sound/speech.py raises for a recording that cannot be used.
    """
    if not sound.is_file():
        _write_sound(audio, sound, duration_s)
    stream.touch(0o600)
    with stream.open("r+b") as file:
        end = _drop_torn(file)
        segments = segments_in(folder)
        first_sets = parameter_sets(segments[0]) if segments else b""
        for segment in segments:
            if segment.start != end:
                continue
            head, piece = _fragment(segment, first_sets, sound, fps)
            file.write((head if segment.start == 0 else b"") + piece + mark_of(segment.end))
            file.flush()
            end = segment.end
        return end


def _write_sound(audio: Path, sound: Path, duration_s: float) -> None:
    """Write the recording as the AAC track of an MP4 of its own; it appears by rename."""
    partial = sound.with_name(f".{sound.name}.part")
    try:
        with ExitStack() as closing:
            target = closing.enter_context(av.open(str(partial.absolute()), "w", format="mp4"))
            for packet in add_soundtrack(target, audio, duration_s, closing):
                target.mux_one(packet)
        publish(partial, sound)
    finally:
        partial.unlink(missing_ok=True)


def _drop_torn(file: BinaryIO) -> int:
    """Truncate the file after the last complete piece, and seek to its end.

    Returns the number of frames up to there.
    """
    end = n_frames = 0
    for box in _boxes(file):
        if box.name != b"free" or box.size != MARK_BYTES:
            continue
        file.seek(box.at)
        if marked := n_frames_at(file.read(MARK_BYTES)):
            n_frames, end = marked, box.at + box.size
    file.seek(end)
    file.truncate()
    return n_frames


@dataclass(frozen=True)
class _Box:
    name: bytes
    at: int
    size: int


def _boxes(file: BinaryIO) -> Iterator[_Box]:
    """The whole boxes of the file's top level."""
    n_bytes = file.seek(0, os.SEEK_END)
    at = 0
    while at + 8 <= n_bytes:
        file.seek(at)
        head = file.read(8)
        box = _Box(head[4:], at, int.from_bytes(head[:4]))
        if box.size < 8 or at + box.size > n_bytes:
            return
        yield box
        at += box.size


def _fragment(segment: Segment, first_sets: bytes, sound: Path, fps: int) -> tuple[bytes, bytes]:
    """The head of a stream (ftyp, moov) that begins with `segment`, and the piece of the segment: moof and mdat, once
    for each of its key frames.

    first_sets: the parameter sets that the stream's head has.
    """
    written = io.BytesIO()
    # Pieces are numbered upwards from 1, and one for each frame is more than there can be.
    options = {"movflags": _FLAGS, "fragment_index": str(segment.start + 1), "avoid_negative_ts": "disabled"}
    if segment.start:
        options["movflags"] += "+frag_discont"  # FFmpeg keeps the time stamps of this piece, and does not start at 0
    with ExitStack() as closing:
        target = av.open(written, "w", format="mp4", options=options)
        closing.callback(target.close)
        opened = closing.enter_context(open_segment(segment))
        pictures = target.add_stream_from_template(opened.streams.video[0])
        heard = closing.enter_context(av.open(str(sound.absolute()), "r", format="mov"))
        voice = target.add_stream_from_template(heard.streams.audio[0])
        for packet in merged(
            _pictures(segment, opened, pictures, first_sets, fps),
            _sound_of(heard, voice, Fraction(segment.start, fps), Fraction(segment.end, fps)),
        ):
            target.mux_one(packet)
    written.seek(0)
    data = written.getvalue()
    moov = next(box for box in _boxes(written) if box.name == b"moov")
    return data[: moov.at + moov.size], data[moov.at + moov.size :]


def _pictures(
    segment: Segment,
    opened: "av.container.InputContainer",
    stream: "av.VideoStream",
    first_sets: bytes,
    fps: int,
) -> Iterator["av.Packet[av.VideoStream]"]:
    """The segment's packets, timed from the beginning of the whole video."""
    sets = parameter_sets(segment)
    for number, (packet, shown) in enumerate(shown_frames(opened, fps)):
        # A job that went on with another encoder: each key frame then brings its own parameters.
        timed = prefixed(packet, sets) if sets != first_sets and packet.is_keyframe else packet
        timed.stream = stream
        timed.time_base = Fraction(1, fps)
        timed.pts = segment.start + shown
        timed.dts = segment.start + number - _AHEAD
        timed.duration = 1
        yield timed


def _sound_of(
    opened: "av.container.InputContainer", stream: "av.AudioStream", start_s: Fraction, end_s: Fraction
) -> Iterator["av.Packet[av.AudioStream]"]:
    """The packets of sound that begin from `start_s` up to, not including, `end_s`."""
    source = opened.streams.audio[0]
    assert source.time_base is not None
    if start_s > 0:
        opened.seek(int(start_s / source.time_base), stream=source)
    for packet in opened.demux(source):
        if packet.pts is None or not packet.size:
            continue
        begins_s = packet.pts * source.time_base
        if begins_s >= end_s:
            return
        if begins_s >= start_s:
            packet.stream = stream
            yield packet
