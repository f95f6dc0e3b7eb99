"""The steps of a release that are more than one command: `release.py check TAG | notes TAG | image REPO | name REPO`.

The workflow release.yml runs them, and so do the tests. Needs nothing but Python's standard library.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Stands for the repository in the node's links until a release names it.
PLACEHOLDER = "n8n-nodes-lipsync/lipsync"


def version() -> str:
    """The version of the server, which is the version of everything."""
    text = (ROOT / "server" / "lipsync_server" / "version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("server/lipsync_server/version.py names no __version__")
    return found[1]


def check(tag: str) -> None:
    """Stop the release unless tag, server, node and changelog name the same version and the weights are pinned."""
    package = json.loads((ROOT / "n8n-node" / "package.json").read_text(encoding="utf-8"))["version"]
    if tag != f"v{version()}":
        raise SystemExit(f"the tag is {tag}, and server/lipsync_server/version.py has {version()}")
    if package != version():
        raise SystemExit(f"n8n-node/package.json has {package}, and the server has {version()}")
    pinned()
    notes(tag)


def pinned() -> None:
    """Stop the release while a file of the list of weights may change without notice.

    The files of a commit never change. The files of a branch may, unless the list has the SHA-256 of each of them. An
    index (`named_bytes`) names shards, which the list does not have.
    """
    listed = json.loads((ROOT / "weights" / "manifest.json").read_text(encoding="utf-8"))
    branches = {
        key for key, source in listed["sources"].items() if not re.fullmatch(r"[0-9a-f]{40}", source["revision"])
    }
    files = listed["files"].values()
    moving = {file["source"] for file in files if not file["sha256"] or file.get("named_bytes")} & branches
    if moving:
        raise SystemExit(
            f"weights/manifest.json follows branches at {', '.join(sorted(moving))}: run "
            "`python -m lipsync_server.weights.pin weights/manifest.json` where the model hub can be reached"
        )


def notes(tag: str) -> str:
    """The section of CHANGELOG.md of one version, without its heading."""
    wanted = tag.removeprefix("v")
    sections = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for section in sections[1:]:
        heading, _, body = section.partition("\n")
        if heading.split()[0].strip("[]") == wanted and body.strip():
            return body.strip() + "\n"
    raise SystemExit(f"CHANGELOG.md has no section for {wanted}: rename Unreleased to the version and the day")


def image(repository: str) -> str:
    """The image's name in the registry of the repository `owner/name`; registries take lower case only."""
    return f"ghcr.io/{repository.lower()}"


def name(repository: str) -> None:
    """Write `owner/name` into server and node, so that what is built now knows where it is published.

    npm refuses a package with provenance whose package.json names another repository.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SystemExit(f"{repository!r} is not owner/name")
    replace_line("server/lipsync_server/cloud/published.py", r'^REPOSITORY = ".*"$', f'REPOSITORY = "{repository}"')
    release = f"export const RELEASE = '{repository}:{version()}';"
    replace_line("n8n-node/nodes/Lipsync/machines/published.ts", r"^export const RELEASE = '.*';$", release)
    for path in files_with_links():
        text = path.read_text(encoding="utf-8")
        if PLACEHOLDER in text:
            path.write_text(text.replace(PLACEHOLDER, repository), encoding="utf-8")


def files_with_links() -> list[Path]:
    """The files of the node's package that may name the repository."""
    folder = ROOT / "n8n-node"
    sources = [path for part in ("credentials", "nodes") for path in (folder / part).rglob("*") if path.is_file()]
    return [folder / "package.json", *(path for path in sources if path.suffix in (".json", ".ts"))]


def replace_line(file: str, pattern: str, line: str) -> None:
    path = ROOT / file
    text, n_changed = re.subn(pattern, line, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if n_changed != 1:
        raise SystemExit(f"{file} has no line {pattern}")
    path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["check", tag]:
            check(tag)
        case ["notes", tag]:
            sys.stdout.write(notes(tag))
        case ["image", repository]:
            sys.stdout.write(image(repository) + "\n")
        case ["name", repository]:
            name(repository)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
