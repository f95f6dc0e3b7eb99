"""Makes safe file names from callers' names, and the Content-Disposition header of a download.

A name only labels a job, so that a strange name never makes a request fail. Knows text only.
"""

import re
import unicodedata
from collections.abc import Mapping
from urllib.parse import quote

# File systems allow 255 bytes, and the endings of a video and of a copy are added.
_MAX_BYTES = 200
_LONGEST_ENDING = 10
# Browsers percent-encode only these three characters of a file name in a multipart header.
_BROWSER_CODES = {"%22": '"', "%0D": "\r", "%0A": "\n", "%0d": "\r", "%0a": "\n"}
_NAME = re.compile(r'(?:^|[;\s])name\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^;\s]+))', re.IGNORECASE)
_FILE_NAME = re.compile(r'(?:^|[;\s])filename\s*=\s*(?:"(.*)"|([^;\s]+))', re.IGNORECASE | re.DOTALL)


def video_name(wanted: str | None, image_name: str) -> str:
    """A safe name for the finished video: the wanted name, else one made from the picture's name."""
    if wanted:
        name = safe_name(wanted)
        return name if name.lower().endswith(".mp4") else f"{name}.mp4"
    stem = safe_name(image_name).rsplit(".", 1)[0].strip(" .") if image_name else ""
    return f"{stem}-lipsync.mp4" if stem else "lipsync.mp4"


def safe_name(name: str) -> str:
    """The last part of a path without control characters and characters that file systems forbid; never empty."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    kinds = {"Zl", "Zp"}  # the separators of lines and of paragraphs
    name = "".join(c for c in name if (kind := unicodedata.category(c))[0] != "C" and kind not in kinds)
    return _shortened(re.sub(r'[<>:"|?*]', "", name).strip(" .")) or "file"


def _shortened(name: str) -> str:
    """`name` with at most _MAX_BYTES bytes in UTF-8, cut before its ending."""
    stem, dot, ending = name.rpartition(".")
    if len(ending) > _LONGEST_ENDING:
        stem, dot, ending = name, "", ""
    room = _MAX_BYTES - len(f"{dot}{ending}".encode())
    return f"{stem.encode()[:room].decode(errors='ignore').rstrip(' .')}{dot}{ending}"


def attachment(name: str) -> str:
    """The Content-Disposition of a download: an ASCII name for old clients, the real name as RFC 5987 encodes it."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r'[\\"%;]', "_", plain).strip()
    stem, dot, ending = plain.rpartition(".")
    # A name that begins with a dot is hidden, and programs take one that begins with a dash for an option.
    plain = f"{stem.lstrip(' .-') or 'lipsync'}{dot}{ending}"
    value = f'attachment; filename="{plain}"'
    return value if plain == name else f"{value}; filename*=UTF-8''{quote(name, safe='')}"


def inline(name: str) -> str:
    """The Content-Disposition of a file that a browser shows in place."""
    return attachment(name).replace("attachment", "inline", 1)


def part_names(headers: Mapping[str, str], name: str | None, filename: str | None) -> tuple[str | None, str | None]:
    """The field and file name of a multipart part.

    name, filename: as aiohttp's parser read them. That parser returns neither for a file name with quotes or
    semicolons; then this function reads the header leniently.
    """
    header = headers.get("Content-Disposition", "")
    if not name:
        # A file name may contain `name=`, so the part of the header before `filename` is searched first.
        before = re.split(r"filename\*?\s*=", header, maxsplit=1, flags=re.IGNORECASE)[0]
        match = _NAME.search(before) or _NAME.search(header)
        name = (match.group(1) or match.group(2)) if match else None
        match = _FILE_NAME.search(header)
        filename = (match.group(1) or match.group(2) or "") if match else filename
    if filename is not None:
        for code, character in _BROWSER_CODES.items():
            filename = filename.replace(code, character)
    return name, filename
