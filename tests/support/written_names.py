"""Finds the commands, verbs, settings and files that the project's own words name.

Reads pages (Markdown), and in Python the strings, docstrings and comments. Does not know which of them exist.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Links into this repository where no relative link works: in the node's codex files and in messages.
OWN_LINK = re.compile(r"https://github\.com/n8n-nodes-lipsync/lipsync/(?:tree|blob|raw)/main/([\w./-]+)(?:#([\w-]+))?")
MODULE = re.compile(r"python3? -m (lipsync_server(?:\.\w+)+)")
WORDS_IN = (".md", ".py", ".ts", ".mts", ".json", ".yml", ".yaml", ".html", ".js", ".toml", ".sh", ".mjs", ".css")
WITHOUT_SUFFIX = ("Makefile", "Dockerfile", "run")
# Lower-case `lipsync` before a word is always the program; the product is written Lipsync.
COMMAND = re.compile(r"(?<![-\w/.@:'\"])(?:\.venv/bin/)?lipsync ((?:[a-z-]+ )*[a-z-]+(?: [^\n`'\"|;&)]*)?)")
VERB = re.compile(r"(?:`|^ {4}|^RUN |run: )(?:[A-Z_]+=\S+ )*make ([a-z][a-z0-9-]*)", re.MULTILINE)
SETTING = re.compile(r"\bLIPSYNC_[A-Z0-9_]*[A-Z0-9]\b")
# Not .json: most JSON files that a text names are the user's, or published model files.
FILE = re.compile(
    r"(?<![\w{}/.*<>:@-])"
    r"((?:[\w.-]+/)*[\w-]+\.(?:py|md|cu|mts|sh|toml|ts|yml|html|css|svg))"
    r"\b(?!\()"
)
EXTRA = re.compile(r"(?:lipsync-server|(?<![\w?])\.)\[([a-z0-9,]+)\]")


@dataclass(frozen=True)
class Passage:
    """A piece of text that people read, and its file, relative to the repository."""

    place: str
    text: str


def tracked_files() -> list[str]:
    """Every file that git knows, and new ones that it does not ignore, relative to the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [name for name in names if name and (ROOT / name).exists()]


def passages(*folders: str) -> Iterator[Passage]:
    """The words of every tracked file below `folders`; "" is the whole repository."""
    for name in tracked_files():
        path = ROOT / name
        if (
            name.startswith(folders)
            and (path.suffix in WORDS_IN or path.name in WITHOUT_SUFFIX)
            and path.name != "package-lock.json"
        ):
            text = path.read_text(encoding="utf-8")
            for found in words_of_python(text) if path.suffix == ".py" else [text]:
                yield Passage(name, found)


def heading_ids(page: Path) -> set[str]:
    """The anchors that a page's headings get: lower case, without punctuation, with hyphens for blanks."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def words_of_python(source: str) -> Iterator[str]:
    """Strings, docstrings and comments of a Python file. A value in an f-string becomes `{}`."""
    inside_f_strings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside_f_strings.update(id(part) for part in node.values)
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside_f_strings:
            yield node.value
    comments = [
        token.string.lstrip("#")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    yield "\n".join(comments)
