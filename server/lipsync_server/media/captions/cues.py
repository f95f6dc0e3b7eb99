"""Group timed words into cues. A cue is the text on the screen at one time, long enough to read, ending at a pause.

Limits follow the BBC's subtitle guidelines (https://www.bbc.co.uk/accessibility/forproducts/guides/subtitles): two
lines, about 37 characters a line, at least a second on the screen where the speech allows it. Writing without blanks
has wide letters, so each counts twice, as Unicode's width "W" says.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lipsync_server.media.captions.script import ends_clause, ends_sentence
from lipsync_server.media.info import HeardWord

LONGEST_S: Final = 6.0
_SHORTEST_S: Final = 1.0
_PAUSE_S: Final = 0.6
"""A longer silence between two words ends the cue."""
_HOLD_S: Final = 0.4
"""A cue stays this long after its last word, unless the next one begins."""


@dataclass(frozen=True)
class Shape:
    """Limits of a cue. n_characters: width of a line. n_lines: lines at most."""

    n_characters: int = 37
    n_lines: int = 2


FEW_WORDS: Final = Shape(n_characters=16, n_lines=2)
"""For large words in vertical video."""


@dataclass(frozen=True)
class Cue:
    """Lines of timed words, shown from start_s to end_s."""

    lines: tuple[tuple[HeardWord, ...], ...]
    start_s: float
    end_s: float

    @property
    def text(self) -> str:
        """The lines as they are shown, joined by line breaks."""
        return "\n".join(joined(line) for line in self.lines)


def joined(words: Sequence[HeardWord]) -> str:
    """The words of one line with the blanks between them."""
    text = "".join((" " if timed.blank_before else "") + timed.text for timed in words)
    return text.strip()


def width_of(text: str) -> int:
    """Columns that `text` takes: two for a wide letter, none for a mark on the letter before."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def cues_of(words: Sequence[HeardWord], shape: Shape = Shape()) -> list[Cue]:
    """The cues of all `words`, in order and without overlap."""
    groups = [group for part in _by_pause(words) for group in _by_size(part, shape)]
    cues: list[Cue] = []
    waiting: list[tuple[HeardWord, ...]] = []
    for i, group in enumerate(groups):
        start_s = group[0].start_s
        next_s = groups[i + 1][0].start_s if i + 1 < len(groups) else float("inf")
        end_s = min(next_s, max(group[-1].end_s + _HOLD_S, start_s + _SHORTEST_S))
        lines = [*waiting, *(tuple(line) for line in _lines(group, shape))]
        if end_s > start_s:
            cues.append(Cue(tuple(lines), start_s, end_s))
        waiting = [] if end_s > start_s else lines  # two groups at one moment are shown together
    return cues


def _by_pause(words: Sequence[HeardWord]) -> Iterator[list[HeardWord]]:
    """Groups that end with a sentence or before a pause."""
    group: list[HeardWord] = []
    for timed in words:
        if group and (ends_sentence(group[-1].text) or timed.start_s - group[-1].end_s > _PAUSE_S):
            yield group
            group = []
        group.append(timed)
    if group:
        yield group


def _by_size(words: list[HeardWord], shape: Shape) -> Iterator[list[HeardWord]]:
    """Parts of about equal size that fit the shape, cut after a comma where one is near."""
    if _fits(words, shape):
        yield words
        return
    total = width_of(joined(words))
    n_parts = max(2, -(-total // (shape.n_characters * shape.n_lines)))
    first = total / n_parts

    def badness(cut: int) -> float:
        off = abs(width_of(joined(words[:cut])) - first) / first
        return off - (0.35 if ends_clause(words[cut - 1].text) else 0.0)

    # Where no cut leaves a part that fits, _fits of a single word ends the division.
    cut = min(range(1, len(words)), key=badness)
    yield from _by_size(words[:cut], shape)
    yield from _by_size(words[cut:], shape)


def _fits(words: list[HeardWord], shape: Shape) -> bool:
    """Whether the words can be one cue: its lines and its duration are within the limits. A single word always can."""
    if len(words) == 1:
        return True
    return len(_lines(words, shape)) <= shape.n_lines and words[-1].end_s - words[0].start_s <= LONGEST_S


def _lines(words: Sequence[HeardWord], shape: Shape) -> list[list[HeardWord]]:
    """The words in as few lines as hold them, of about equal width."""
    total = width_of(joined(words))
    n_lines = max(1, -(-total // shape.n_characters))
    while True:
        lines = _filled(words, max(total / n_lines, 1.0), shape.n_characters)
        if len(lines) <= n_lines or n_lines >= len(words):
            return lines
        n_lines += 1


def _filled(words: Sequence[HeardWord], wanted: float, widest: int) -> list[list[HeardWord]]:
    """Lines filled until about `wanted` columns, never beyond `widest` unless one word alone is wider."""
    lines: list[list[HeardWord]] = [[]]
    for timed in words:
        here = width_of(joined(lines[-1]))
        there = width_of(joined([*lines[-1], timed]))
        if lines[-1] and (there > widest or (here + there) / 2 >= wanted):
            lines.append([])
        lines[-1].append(timed)
    return lines
