"""Joins encoded segments and the caller's sound to one MP4, and reads the facts of a finished MP4.

Video packets are copied, never encoded again. Knows time stamps and boxes; does not know how the frames were made.
"""

import hashlib
import heapq
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av

from lipsync_server.durable import publish
from lipsync_server.errors import LipsyncError
from lipsync_server.media.captions.cues import cues_of
from lipsync_server.media.captions.subtitles import add_text_track
from lipsync_server.media.info import HeardScript, VideoInfo
from lipsync_server.media.mp4.encoder import Segment, segments_in
from lipsync_server.media.mp4.soundtrack import add_soundtrack

_Packet: TypeAlias = "av.Packet[av.VideoStream] | av.Packet[av.AudioStream]"


def mux(
    folder: Path, audio: Path, output: Path, *, fps: int = 25, duration_s: float, script: HeardScript | None = None
) -> VideoInfo:
    """Join the segments in `folder` with the sound of `audio`, exactly `duration_s` long, into the MP4 `output`.

    script: becomes a text track that players can show.

    The moov box (the index) comes first, the frame rate is constant, and `output` gets its name by a rename after all
    of it is on disk. Raises the errors of media/sound/speech.py for a recording that cannot be used, ValueError where
    frames and sound differ in length by more than a frame.
    """
    segments = segments_in(folder)
    n_frames = segments[-1].end if segments else 0
    if abs(n_frames - duration_s * fps) > 1 + 1e-6:
        raise ValueError(f"{n_frames} frames at {fps}/s do not fit {duration_s:.3f} s of sound")
    partial = output.with_name(f".{output.name}.part")
    try:
        with ExitStack() as closing:
            # The edit lists, which give the end of each track, count in the movie's time scale. FFmpeg's default scale
            # of milliseconds would cut up to a millisecond from the sound.
            options = {"movflags": "+faststart", "movie_timescale": "48000"}
            target = closing.enter_context(av.open(str(partial.absolute()), "w", format="mp4", options=options))
            pictures = _pictures(target, segments, fps, closing)
            streams = [pictures, add_soundtrack(target, audio, duration_s, closing)]
            if script is not None:
                streams.append(add_text_track(target, cues_of(script.words), script.language, duration_s))
            for packet in merged(*streams):
                target.mux_one(packet)
        publish(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return probe_video(output)


def merged(*streams: Iterator[Any]) -> Iterator[_Packet]:
    """The packets of all streams in the order of their decode times, so that a player finds sound beside picture."""
    return heapq.merge(*streams, key=_decode_time)


def _decode_time(packet: _Packet) -> Fraction:
    assert packet.dts is not None
    return packet.dts * packet.time_base


def _pictures(
    target: "av.container.OutputContainer", segments: list[Segment], fps: int, closing: ExitStack
) -> Iterator["av.Packet[av.VideoStream]"]:
    """Add the video track; returns the packets of all segments with new time stamps, at one constant frame rate."""
    first = closing.enter_context(open_segment(segments[0]))
    stream = target.add_stream_from_template(first.streams.video[0])
    return _joined(segments, stream, fps, max(_reorder_depth(segment, fps) for segment in segments))


def _joined(
    segments: list[Segment], stream: "av.VideoStream", fps: int, depth: int
) -> Iterator["av.Packet[av.VideoStream]"]:
    # H.264 packets are stored in the order of decoding, which differs from the order of showing by a few frames (the
    # reorder depth). Decode time = number of the packet - the largest depth of any segment: these times rise by one
    # frame and are never later than the time at which the frame is shown.
    parameters = [parameter_sets(segment) for segment in segments]
    are_mixed = len(set(parameters)) > 1
    n_packets = 0
    for segment, sets in zip(segments, parameters, strict=True):
        with open_segment(segment) as opened:
            for packet, shown in shown_frames(opened, fps):
                # The job went on with another encoder or quality: each key frame then carries its own parameter sets.
                joined = prefixed(packet, sets) if are_mixed and packet.is_keyframe else packet
                joined.stream = stream
                joined.time_base = Fraction(1, fps)
                joined.pts = segment.start + shown
                joined.dts = n_packets - depth
                joined.duration = 1
                n_packets += 1
                yield joined
        if n_packets != segment.end:
            raise LipsyncError(f"Segment {segment.path.name} is damaged: frames are missing. Start the job again.")


def parameter_sets(segment: Segment) -> bytes:
    """The segment's sequence and picture parameter sets in the form of an MP4 packet: a length before each set."""
    with open_segment(segment) as opened:
        record = opened.streams.video[0].codec_context.extradata or b""
    # ISO 14496-15, AVCDecoderConfigurationRecord: a count and the sequence sets, a count and the picture sets.
    sets, at = b"", 5
    for mask in (0x1F, 0xFF):
        n_sets, at = record[at] & mask, at + 1
        for _ in range(n_sets):
            length = int.from_bytes(record[at : at + 2])
            sets += length.to_bytes(4) + record[at + 2 : at + 2 + length]
            at += 2 + length
    return sets


def prefixed(packet: "av.Packet[av.VideoStream]", sets: bytes) -> "av.Packet[av.VideoStream]":
    """A key frame's packet with parameter sets before it."""
    with_sets: av.Packet[Any] = av.Packet(sets + bytes(packet))
    with_sets.is_keyframe = True
    return with_sets


def _reorder_depth(segment: Segment, fps: int) -> int:
    """By how many frames at most the segment shows a frame earlier than it was decoded."""
    with open_segment(segment) as opened:
        return max(index - shown for index, (_, shown) in enumerate(shown_frames(opened, fps)))


def shown_frames(opened: "av.container.InputContainer", fps: int) -> Iterator[tuple["av.Packet[av.VideoStream]", int]]:
    """A segment's packets in decode order, each with its place in the order of showing."""
    for packet in opened.demux(opened.streams.video[0]):
        if packet.size:
            assert packet.pts is not None
            yield packet, round(packet.pts * packet.time_base * fps)


def open_segment(segment: Segment) -> "av.container.InputContainer":
    """The segment's file, to be read as the MP4 that it is."""
    return av.open(str(segment.path.absolute()), "r", format="mov")


def probe_video(path: Path) -> VideoInfo:
    """Size, frames, length and SHA-256 of an MP4 that this server made."""
    with av.open(str(path.absolute()), "r", format="mov") as opened:
        stream = opened.streams.video[0]
        context = stream.codec_context
        fps = float(stream.average_rate or 0)
        n_frames = stream.frames
        width, height = context.width, context.height
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return VideoInfo(width, height, fps, n_frames, n_frames / fps if fps else 0.0, path.stat().st_size, digest)
