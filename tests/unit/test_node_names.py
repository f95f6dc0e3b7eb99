"""Every field, choice, operation and route that the n8n node's messages, descriptions and README name exists."""

import re
from collections.abc import Iterable, Iterator

import pytest
from lipsync_server.http.app import ROUTES
from written_names import ROOT, Passage, passages, tracked_files

SOURCES = ("n8n-node/nodes/", "n8n-node/credentials/")
README = "n8n-node/README.md"
# A string of TypeScript: single quotes, double quotes, or a template.
STRING = re.compile(r"""'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`""")
COMMENT = re.compile(r"^\s*(?://|\*|/\*).*$", re.MULTILINE)
# The words that the editor shows for a field, a choice or an output.
LABEL = re.compile(
    r"""\b(?:displayName|name|placeholder|label)(?:: | = )\s*(?:'((?:[^'\\]|\\.)*)'|"([^"]*)"|`([^`]*)`)"""
)
# The words of n8n's own editor.
N8N = {
    "Connection tested successfully",
    "Continue",
    "Continue (using error output)",
    "Couldn't connect with these settings",
    "Crashed",
    "File",
    "Form Data",
    "Form-Data",
    "Generic Credential Type",
    "Header Auth",
    "Loop Over Items",
    "On Error",
    "Retry On Fail",
    "Settings",
    "Stop Workflow",
    "Waiting",
}
# Names of other products and languages that are written like a label.
OTHERS = {"Brazilian Portuguese", "Cloudflare Access"}
# n8n's message without a licence, and no name.
MESSAGES = {"No license found for S3 storage"}
IN_ITALICS = re.compile(r"(?<![*\w])\*([A-Z][^*\n]+)\*(?![*\w])")
_WORD = r"(?:[A-Z][a-z]+|[A-Z]{2,})"
_LINK = r"(?:a|and|as|at|for|in|into|of|on|or|per|the|to|It|Is)"
PHRASE = re.compile(rf"\b{_WORD}(?: (?:{_WORD}|{_LINK}))* {_WORD}\b")
SPLIT = re.compile(r" (?:and|or|to|of the|in the|for the|of|in) ")
# The first word of a sentence, with the article behind it.
OPENING = re.compile(rf"^{_WORD}(?: (?:a|the|on|on the))? (?=[A-Z])")
PATH = re.compile(r"(?<![\w.}])(/(?:v1/[\w{}$.()/<>-]*[\w}]|lipsync|healthz|readyz))(?![\w/])")
METHOD_PATH = re.compile(r"\b(GET|POST|PUT|DELETE|HEAD) (/v1/[\w{}./-]*[\w}])")


def sources() -> Iterator[tuple[str, str]]:
    for name in tracked_files():
        if name.startswith(SOURCES) and name.endswith(".ts"):
            yield name, (ROOT / name).read_text(encoding="utf-8")


def strings_of(text: str) -> Iterator[str]:
    """The strings with a blank in a TypeScript source: sentences and labels."""
    for match in STRING.finditer(COMMENT.sub("", text)):
        found = next(part for part in match.groups() if part is not None) if any(match.groups()) else ""
        if " " in found:
            yield found.replace("\\'", "'")


@pytest.fixture(scope="module")
def labels() -> set[str]:
    """Every label of the node; a label with a unit counts without the unit, too: `Disk (GB)` and `Disk`.

    The value in a template, such as `${title} Field`, is any single word that the node shows.
    """
    code = "\n".join(text for _, text in sources())
    written = {(match[1] or match[2] or match[3] or "").replace("\\'", "'") for match in LABEL.finditer(code)}
    words = set(re.findall(r"'([A-Z]\w+)'", code))
    found = {re.sub(r"\$\{[^}]*\}", word, label) for label in written for word in (words if "${" in label else [""])}
    return found | {re.sub(r" \([^)]*\)$", "", label) for label in found} | N8N | OTHERS


def unknown_in(sentence: str, labels: set[str]) -> Iterator[str]:
    """Names in a sentence of the node's code that no label has. A name has two words or more in capitals."""

    def known(phrase: str) -> bool:
        if phrase in labels or not re.search(rf"{_WORD}.* {_WORD}", phrase):
            return True
        parts = SPLIT.split(phrase)
        return len(parts) > 1 and all(known(part) for part in parts)

    if sentence in labels or re.fullmatch(r"\$\{[^}]*\} \([\w ]+\)", sentence):
        return
    sentence = re.sub(r"\{\{.*?\}\}", "", sentence)  # an expression, which names nodes of the user's workflow
    for match in PHRASE.finditer(sentence):
        begins = match.start() == 0 or sentence[: match.start()].endswith((". ", ": ", "\n"))
        if not known(match[0]) and not (begins and known(OPENING.sub("", match[0]))):
            yield match[0]


def test_every_field_that_a_message_or_description_names_exists(labels: set[str]) -> None:
    wrong = {
        (name, unknown) for name, text in sources() for line in strings_of(text) for unknown in unknown_in(line, labels)
    }
    assert not sorted(wrong)


def test_every_field_that_the_readme_names_exists(labels: set[str]) -> None:
    """The README writes names of fields, choices and operations in italics; `A > B` is B below A."""
    text = (ROOT / README).read_text(encoding="utf-8")
    named = [part for found in IN_ITALICS.findall(text) for part in re.split(r" > |: (?=[A-Z])", found)]
    assert len(named) > 40
    assert not sorted(set(named) - labels - MESSAGES), "neither a label of the node nor one of n8n's (N8N above)"


def test_every_operation_of_the_readme_exists(labels: set[str]) -> None:
    text = (ROOT / README).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (Video|Machine|Server) \| ([^|]+) \|", text, re.MULTILINE)
    assert len(rows) > 10
    assert not [row for row in rows if not set(row) <= labels]


def fits(path: str, patterns: Iterable[str]) -> bool:
    """Whether a route has this path, with any text in place of an id or of a value that the code fills in."""
    parts = path.strip("/").split("/")
    return any(
        len(parts) == len(wanted := pattern.strip("/").split("/"))
        and all("{" in want or "{" in part or want == part for want, part in zip(wanted, parts, strict=True))
        for pattern in patterns
    )


def wrong_routes(found: Iterable[Passage]) -> Iterator[str]:
    """Routes of the text that the server does not have, with the file."""
    paths = [route.path for route in ROUTES]
    for passage in found:
        for method, path in METHOD_PATH.findall(passage.text):
            methods = {method, "GET"} if method == "HEAD" else {method}
            if not fits(path, [route.path for route in ROUTES if route.method in methods]):
                yield f"{passage.place}: {method} {path}"
        yield from (f"{passage.place}: {path}" for path in PATH.findall(passage.text) if not fits(path, paths))


def test_every_route_that_is_named_exists() -> None:
    found = passages(*SOURCES, README, "README.md", "docs/", "server/lipsync_server/", "n8n-node/workflows/")
    assert not sorted(set(wrong_routes(found)))


@pytest.mark.parametrize(
    ("sentence", "unknown"),
    [
        ("Raise Longest Wait, or wait", "Raise Longest Wait"),
        ("set Face Number or Face Box", "Face Number or Face Box"),
        ("Open the Settings Panel of this node", "Open the Settings Panel"),
        ("Generate shows Wait For Ever. Send the token", "Wait For Ever"),
    ],
)
def test_a_field_that_does_not_exist_is_found(sentence: str, unknown: str, labels: set[str]) -> None:
    assert list(unknown_in(sentence, labels)) == [unknown]


def test_a_route_that_does_not_exist_is_found() -> None:
    text = "`GET /v1/videos` lists, `PUT /v1/jobs` and /v1/jobs/{id}/film do not exist; /v1/jobs/${id}/video does."
    assert sorted(wrong_routes([Passage("a page", text)])) == [
        "a page: /v1/jobs/{id}/film",
        "a page: /v1/videos",
        "a page: GET /v1/videos",
        "a page: PUT /v1/jobs",
    ]
