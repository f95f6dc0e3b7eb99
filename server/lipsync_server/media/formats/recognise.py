"""Names the kind of a file that is neither a picture nor a recording, so that its sender can see the mistake.

Web forms and workflows often send text instead of a file: a path, JSON, a web page with an error, base64. The first
bytes show which. Nothing is decoded here.
"""

import re
from pathlib import Path

from lipsync_server.media.formats.container import picture_brand

_HEAD_BYTES = 512
_SHOWN_CHARACTERS = 48

N8N_ADVICE = (
    "In n8n's HTTP Request node choose the parameter type \"n8n Binary File\" and name the item's binary field, usually"
    ' "data".'
)

UNKNOWN = "of a kind that this server does not read"
"""The words of `describe` for a file whose kind it does not know."""
_PLAYLIST_STARTS = (b"#extm3u", b"ffconcat", b"v=0", b"[playlist]", b"<smil", b"<mpd", b"file ")
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF: export its page as PNG"),
    (0, b"%!PS", "a PostScript drawing: export it as PNG"),
    (0, b"II*\0", "a TIFF or a camera's raw picture: export it as JPEG"),
    (0, b"MM\0*", "a TIFF or a camera's raw picture: export it as JPEG"),
    (0, b"FUJIFILM", "a camera's raw picture: export it as JPEG"),
    (0, b"8BPS", "a Photoshop file: export it as PNG"),
    (0, b"gimp xcf", "a GIMP file: export it as PNG"),
    (0, b"\0\0\1\0", "a Windows icon: export it as PNG"),
    (0, b"\xff\x0a", "a JPEG XL picture: export it as JPEG"),
    (4, b"JXL ", "a JPEG XL picture: export it as JPEG"),
    (4, b"jP  ", "a JPEG 2000 picture: export it as JPEG"),
    (0, b"PK\3\4", "a zip archive or an office document: send the file that is in it"),
    (0, b"\x1f\x8b", "a gzip archive: send the file that is in it"),
    (0, b"Rar!", "a RAR archive: send the file that is in it"),
    (0, b"7z\xbc\xaf", "a 7z archive: send the file that is in it"),
    (0, b"\x30\x26\xb2\x75", "a Windows Media file: export it as mp3 or mp4"),
    (8, b"AVI ", "an AVI video: export it as mp4"),
    (0, b"FLV\1", "a Flash video: export it as mp4"),
    (0, b"MThd", "a MIDI file, which holds notes and no sound"),
    (0, b"\0\0\1\xba", "an MPEG programme stream: export it as mp4"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
)
# These are looked for in a file that is no text: a text may begin with some of them.
_BINARY_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"riff\x2e\x91\xcf\x11", "a Wave64 recording: export it as wav or mp3"),
    (0, b"wvpk", "a WavPack recording: export it as wav or mp3"),
    (0, b"TTA1", "a TTA recording: export it as wav or mp3"),
    (0, b"MAC ", "a Monkey's Audio recording: export it as wav or mp3"),
    (0, b"MPCK", "a Musepack recording: export it as wav or mp3"),
    (0, b"MP+", "a Musepack recording: export it as wav or mp3"),
    (0, b"DSD ", "a DSD recording: export it as wav or mp3"),
    (0, b"FRM8", "a DSD recording: export it as wav or mp3"),
    (0, b"\x0b\x77", "an AC-3 recording: export it as wav or mp3"),
    (0, b"\x7f\xfe\x80\x01", "a DTS recording: export it as wav or mp3"),
    (0, b"Creative Voice File", "a Creative Voice recording: export it as wav or mp3"),
    (0, b".RMF", "a RealMedia file: export it as mp3 or mp4"),
)
_TRANSPORT_PACKET = 188
"""The length of a packet of an MPEG transport stream. Each begins with the letter G."""


def describe(path: Path) -> str:
    """A few words on the file at `path`, with advice, to complete "The file is ..."."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return "empty"
    if brand := picture_brand(head):
        return (
            f"a {brand} picture: export it as JPEG" if brand not in ("HEIC", "HEIF", "AVIF") else f"a {brand} picture"
        )
    for at, signature, words in _SIGNATURES:
        if head[at : at + len(signature)] == signature:
            return words
    text = _as_text(head)
    if text is not None:
        return _describe_text(text)
    for at, signature, words in _BINARY_SIGNATURES:
        if head[at : at + len(signature)] == signature:
            return words
    if head[::_TRANSPORT_PACKET] == b"G" * len(range(0, _HEAD_BYTES, _TRANSPORT_PACKET)):
        return "an MPEG transport stream: export it as mp4"
    return UNKNOWN


def is_text(path: Path) -> bool:
    """Whether the file at `path` is text. Files of pictures and of sound never are."""
    with path.open("rb") as file:
        return _as_text(file.read(_HEAD_BYTES)) is not None


def _as_text(head: bytes) -> str | None:
    """The bytes as text, or None if they are none: control characters, or more than one character in 20 undecodable."""
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if head.startswith(mark):
            return head[: len(head) // 2 * 2].decode(encoding, errors="replace")
    # Only the beginning of the file was read, so its last character may be incomplete.
    text = head.decode("utf-8", errors="replace").removesuffix("\ufffd")
    controls = sum(ord(char) < 32 and char not in "\t\r\n\f\x1b" for char in text)
    if not controls and text.count("\ufffd") * 20 <= len(text):
        return text.lstrip("\ufeff")
    return None


def _describe_text(text: str) -> str:
    """`describe` of a file of text, with its first words."""
    start = text.strip()
    low = start.lower()
    words = " ".join(start.split())
    shown = f'"{words[:_SHOWN_CHARACTERS]}{"…" if len(words) > _SHOWN_CHARACTERS else ""}"'
    if low.startswith(tuple(mark.decode() for mark in _PLAYLIST_STARTS)):
        return "a playlist or session description that points at other files, which this server never follows"
    if "<svg" in low[:400]:
        return "plain text, an SVG drawing: export it as PNG"
    if low.startswith("<?xml") and "<mpd" in low:
        return "a playlist or session description that points at other files, which this server never follows"
    if low.startswith(("<!doctype html", "<html")) or "<html" in low[:200]:
        return f"a web page, perhaps the error or login page of the address that it came from. It begins with {shown}"
    if low.startswith("<?xml"):
        return f"plain text (XML) that begins with {shown}"
    if low.startswith("data:"):
        return f"plain text, a data URI {shown}: send the bytes that its base64 stands for"
    if start.startswith(("{", "[")) and re.match(r'[\[{]\s*(["{\[\]}\d-]|true|false|null)', start):
        return f"plain text (JSON) that begins with {shown}"
    if re.fullmatch(r"[A-Za-z0-9+/_\-\s]{40,}=*\s*", start):
        return f"plain text, base64 by its look, {shown}: send the bytes that it stands for"
    return f"plain text that begins with {shown}"
