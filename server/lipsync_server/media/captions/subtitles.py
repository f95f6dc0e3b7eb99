"""Cues as files and as the text track of an MP4.

SRT as players read it, WebVTT (https://www.w3.org/TR/webvtt1/), and 3GPP timed text (3GPP TS 26.245), FFmpeg's
mov_text: a sample is the length of the text in two bytes, and the text in UTF-8.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av

from lipsync_server.media.captions.cues import Cue
from lipsync_server.media.captions.script import is_right_to_left

TRACK_RATE_HZ = 1000
# FFmpeg's mov_text encoder makes the track's style from a header in the ASS format.
_ASS_HEADER = (
    "[Script Info]\nScriptType: v4.00+\nPlayResX: 384\nPlayResY: 288\n\n[V4+ Styles]\n"
    "Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, "
    "Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, "
    "MarginV, Encoding\n"
    "Style: Default,Sans,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\n\n"
    "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
# ISO 639-2 codes, which MP4 stores, of languages whose three letters do not begin with the two of ISO 639-1.
_THREE_LETTERS = {
    "en": "eng", "pt": "por", "es": "spa", "fr": "fra", "de": "deu", "it": "ita", "nl": "nld", "pl": "pol", "tr": "tur",
    "id": "ind", "vi": "vie", "sv": "swe", "ro": "ron", "cs": "ces", "hu": "hun", "fi": "fin", "ru": "rus", "uk": "ukr",
    "bg": "bul", "sr": "srp", "kk": "kaz", "ar": "ara", "fa": "fas", "ur": "urd", "zh": "zho", "cmn": "zho",
    "yue": "zho", "ja": "jpn", "ko": "kor", "hi": "hin", "mr": "mar", "ne": "nep", "he": "heb", "el": "ell",
    "th": "tha", "my": "mya", "bn": "ben", "as": "asm", "ta": "tam", "te": "tel", "kn": "kan", "ml": "mal",
    "gu": "guj", "pa": "pan", "or": "ori", "si": "sin", "ka": "kat", "hy": "hye", "am": "amh", "ti": "tir",
    "da": "dan", "nb": "nob", "no": "nor", "sk": "slk", "sl": "slv", "hr": "hrv", "et": "est", "lv": "lav",
    "lt": "lit", "ca": "cat", "eu": "eus", "ga": "gle", "cy": "cym", "is": "isl", "mk": "mkd", "sq": "sqi",
    "af": "afr", "sw": "swa", "ms": "msa",
}  # fmt: skip
_EMBEDDED = {False: "", True: "\u202b"}  # right-to-left embedding, for players that guess the direction wrongly


def srt(cues: Sequence[Cue]) -> str:
    """The cues as a SubRip file."""
    blocks = (
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_shown(cue)}\n"
        for number, cue in enumerate(cues, 1)
    )
    return "\n".join(blocks)


def vtt(cues: Sequence[Cue]) -> str:
    """The cues as a WebVTT file, each word with the moment it is spoken, so that players can highlight it."""
    blocks = [f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_timed(cue)}\n" for cue in cues]
    return "\n".join(["WEBVTT\n", *blocks])


def add_text_track(
    output: "av.container.OutputContainer", cues: Sequence[Cue], language: str, duration_s: float
) -> Iterator[Any]:
    """Add a text track to the MP4 `output`; returns its packets in order. Between cues there are empty samples."""
    stream = output.add_stream("mov_text")
    stream.codec_context.subtitle_header = _ASS_HEADER.encode()
    stream.time_base = Fraction(1, TRACK_RATE_HZ)
    stream.metadata["language"] = _THREE_LETTERS.get(language.partition("-")[0].lower(), "und")
    return _packets(stream, cues, round(duration_s * TRACK_RATE_HZ))


def _packets(stream: Any, cues: Sequence[Cue], n_ticks: int) -> Iterator[Any]:
    """The track's packets, without gap or overlap, up to `n_ticks` (of TRACK_RATE_HZ)."""
    at = 0
    for cue in cues:
        start = min(round(cue.start_s * TRACK_RATE_HZ), n_ticks)
        end = min(round(cue.end_s * TRACK_RATE_HZ), n_ticks)
        if start > at:
            yield _packet(stream, "", at, start - at)
        at = max(at, start)
        if end > at:
            yield _packet(stream, _shown(cue), at, end - at)
            at = end
    if n_ticks > at:
        yield _packet(stream, "", at, n_ticks - at)


def _packet(stream: Any, text: str, start: int, n_ticks: int) -> Any:
    encoded = text.encode()[:0xFFFF]
    packet: Any = av.Packet(len(encoded).to_bytes(2, "big") + encoded)
    packet.pts = packet.dts = start
    packet.duration = n_ticks
    packet.time_base = Fraction(1, TRACK_RATE_HZ)
    packet.stream = stream
    return packet


def _shown(cue: Cue) -> str:
    """The cue's text, with an embedding mark before each line that is read from right to left."""
    lines = cue.text.split("\n")
    return "\n".join(_EMBEDDED[is_right_to_left(line)] + line for line in lines)


def _timed(cue: Cue) -> str:
    """The cue's text for WebVTT: a time stamp before each word that begins after the cue."""
    lines = []
    for line in cue.lines:
        text = ""
        for timed in line:
            moment = f"<{_clock(timed.start_s, '.')}>" if timed.start_s > cue.start_s else ""
            text += (" " if timed.blank_before and text else "") + moment + _escaped(timed.text)
        lines.append(text)
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    """A time as hours:minutes:seconds and milliseconds. point: the sign between seconds and milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
