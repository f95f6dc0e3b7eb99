"""Find a font for the letters of a text: from the system, or from a folder that the owner names.

Knows font files and their character maps. Fonts are read when a caption first needs them.
"""

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Final

from fontTools.ttLib import TTCollection, TTFont, TTLibError
from PIL import ImageFont

from lipsync_server.errors import InvalidInput

# Names that come first where several fonts have all letters: sans serif, bold, made for screens.
_LIKED: Final = (
    "notosans-bold", "notosans[", "segoeuib", "sfns", "arialbd", "arial bold", "dejavusans-bold", "liberationsans-bold",
    "robotobold", "roboto-bold", "helveticaneue", "notosanscjk-bold", "yugothb", "msyhbd", "malgunbd", "hiragino",
    "pingfang", "applesdgothic", "notosansarabic-bold", "notosanshebrew-bold", "notosansdevanagari-bold", "nirmalab",
    "notosansthai-bold", "leelawuib", "geezapro",
)  # fmt: skip
_EMOJI: Final = ("notocoloremoji", "seguiemj", "apple color emoji", "twemoji", "notoemoji", "symbola")
_NOT_FOR_TEXT: Final = ("mono", "serif-", "condensed", "italic", "oblique", "math", "light", "thin", "display")
_SUFFIXES: Final = (".ttf", ".otf", ".ttc")
_PICTURES: Final = frozenset(
    "⌚⌛⏩⏪⏫⏬⏰⏳◽◾☔☕♈♉♊♋♌♍♎♏♐♑♒♓♿⚓⚡⚪⚫⚽⚾⛄⛅⛎⛔⛪⛲⛳⛵⛺⛽✅✊✋✨❌❎❓❔❕❗➕➖➗➰➿⬛⬜⭐⭕"
)
"""The characters below U+1F000 that are pictures without a selector."""
_JOINERS: Final = frozenset("\u200d\ufe0e\ufe0f\u20e3\u200c")
# Bitmap emoji come in one size, in pixels: Noto's and Apple's.
_BITMAP_SIZES: Final = (109, 160, 96, 64)


@dataclass(frozen=True)
class FontFile:
    """A font in a file. index: its place in a collection (.ttc)."""

    path: Path
    index: int = 0


@lru_cache(maxsize=1024)
def _characters(font: FontFile) -> frozenset[int]:
    """The code points that a font can draw; none for a file that cannot be read."""
    try:
        with TTFont(font.path, fontNumber=font.index, lazy=True) as opened:
            return frozenset(opened.getBestCmap() or {})
    except (TTLibError, OSError, ValueError, KeyError, AssertionError):
        return frozenset()


class Fonts:
    """The fonts of this machine. folder: searched first, for an owner's own fonts."""

    def __init__(self, folder: Path | None = None) -> None:
        self._files = tuple(_font_files(folder))
        self._known: dict[str, FontFile | None] = {}

    def runs(self, text: str) -> list[tuple[str, FontFile]]:
        """`text` as runs that one font each can draw.

        Raises InvalidInput that names the letters for which no font is installed.
        """
        return [run for _, part in groupby(_clusters(text), _is_emoji) for run in self._runs_of_one_kind(list(part))]

    def _runs_of_one_kind(self, clusters: list[str]) -> list[tuple[str, FontFile]]:
        """The runs of clusters that are all letters or all emoji.

        The two kinds are separated first, because many fonts of letters also have a black heart.
        """
        whole = self._covering("".join(clusters))
        if whole is not None:
            return [("".join(clusters), whole)]
        runs: list[tuple[str, FontFile]] = []
        for cluster in clusters:
            font = self._covering(cluster)
            if font is None:
                letters = "".join(dict.fromkeys(c for c in cluster if not unicodedata.combining(c)))
                raise InvalidInput(
                    f"No font on the server can draw {letters!r} ({unicodedata.name(letters[0], 'unknown letter')}). "
                    "Install one, on Debian the packages fonts-noto-core, fonts-noto-cjk and fonts-noto-color-emoji, "
                    "name a folder with fonts in LIPSYNC_FONTS_DIR, or ask for captions=track.",
                    field="captions",
                )
            if runs and runs[-1][1] == font:
                runs[-1] = (runs[-1][0] + cluster, font)
            else:
                runs.append((cluster, font))
        return runs

    def _covering(self, text: str) -> FontFile | None:
        """The best font with every letter of `text`; emoji come from a font of emoji."""
        if text not in self._known:
            self._known[text] = self._search(text)
        return self._known[text]

    def _search(self, text: str) -> FontFile | None:
        needed = {ord(c) for c in text if c not in _JOINERS and not c.isspace()}
        files = sorted(self._files, key=_is_for_emoji, reverse=True) if _is_emoji(text) else self._files
        for font in files:
            if needed <= _characters(font):
                return font
        return None


def load(font: FontFile, size_px: int) -> tuple[ImageFont.FreeTypeFont, float]:
    """The font at `size_px`, and the factor by which drawn letters are then scaled: 1 except for bitmap fonts."""
    return _loaded(font, size_px)


@lru_cache(maxsize=64)
def _loaded(font: FontFile, size_px: int) -> tuple[ImageFont.FreeTypeFont, float]:
    if not _is_for_emoji(font):
        return ImageFont.truetype(str(font.path), size_px, index=font.index), 1.0
    for size in (size_px, *_BITMAP_SIZES):
        try:
            return ImageFont.truetype(str(font.path), size, index=font.index), size_px / size
        except OSError:
            continue
    raise InvalidInput(f"The emoji font {font.path.name} cannot be used here.", field="captions")


def _is_for_emoji(font: FontFile) -> bool:
    name = font.path.stem.lower()
    return any(part in name for part in _EMOJI)


def _is_emoji(text: str) -> bool:
    """Whether Unicode asks for coloured pictures: by a selector behind the character, or by the character itself.

    A copyright sign or a heart without a selector is a letter (UTS 51, emoji presentation).
    """
    if "\ufe0e" in text:
        return False
    return any(c in "\ufe0f\u20e3" or c >= "\U0001f000" or c in _PICTURES for c in text)


def _clusters(text: str) -> Iterator[str]:
    """Split the text into letters with their marks and emoji with the characters joined to them."""
    cluster = ""
    for c in text:
        joins = c in _JOINERS or unicodedata.combining(c) or "\U0001f3fb" <= c <= "\U0001f3ff" or c.isspace()
        pairs = _is_flag(c) and _is_flag(cluster[-1:]) and len(cluster) == 1
        if cluster and not (joins or pairs or cluster.endswith("\u200d")):
            yield cluster
            cluster = ""
        cluster += c
    if cluster:
        yield cluster


def _is_flag(c: str) -> bool:
    return "\U0001f1e6" <= c <= "\U0001f1ff"


def _font_files(folder: Path | None) -> list[FontFile]:
    """All fonts in the order of the search: the owner's folder, then the system's, best rank first."""
    own = _in_folders([folder]) if folder is not None else []
    system = sorted(_in_folders(_system_folders()), key=_rank)
    return [*own, *system]


def _rank(font: FontFile) -> tuple[int, int, int, str]:
    """Order fonts: preferred families first, then fonts without a special cut, then bold fonts."""
    name = font.path.name.lower()
    liked = next((i for i, part in enumerate(_LIKED) if name.startswith(part)), len(_LIKED))
    special = sum(part in name for part in _NOT_FOR_TEXT) + 4 * _is_for_emoji(font)
    return liked, special, 0 if "bold" in name else 1, name


def _in_folders(folders: Iterable[Path]) -> list[FontFile]:
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.suffix.lower() in _SUFFIXES:
                found += [FontFile(path, index) for index in range(_n_fonts(path))]
    return found


def _n_fonts(path: Path) -> int:
    """Number of fonts in a file: 1, or the count in a collection (.ttc); 0 for a collection that cannot be read."""
    if path.suffix.lower() != ".ttc":
        return 1
    try:
        with TTCollection(path, lazy=True) as collection:
            return len(collection)
    except (TTLibError, OSError, ValueError):
        return 0


def _system_folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", str(home))
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts", Path(local) / "Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"]
