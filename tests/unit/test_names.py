"""Every command, verb, setting, file and extra that a message, a docstring or a page names exists."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import pytest
import typer
from lipsync_server.cli import app
from lipsync_server.cloud.rent import PROVIDERS
from lipsync_server.settings import Settings
from pydantic import AliasChoices
from typer.core import TyperGroup
from written_names import (
    COMMAND,
    EXTRA,
    FILE,
    MODULE,
    OWN_LINK,
    ROOT,
    SETTING,
    VERB,
    Passage,
    heading_ids,
    passages,
    tracked_files,
)

# Pages of a release that is over may name things that are gone.
HISTORY = ("CHANGELOG.md",)
PRODUCT = ("server/lipsync_server/", "README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/", "n8n-node/", "weights/")
EVERYTHING = (*PRODUCT, "Makefile", "Dockerfile", ".github/", ".ci/", "pyproject.toml")
# Files that the user makes, that the reference implementation has, or that a program writes where it runs.
NOT_OURS = {"generate_infinitetalk.py", "install.sh", "notes.md", "lipsync/machines.json"}
# A package that a page writes as an example.
EXAMPLES = ("lipsync_wobble/",)


@pytest.fixture(scope="module")
def everything() -> list[Passage]:
    return [passage for passage in passages(*EVERYTHING) if passage.place not in HISTORY]


def wrong_commands(found: Iterable[Passage]) -> Iterator[str]:
    """Commands of the text whose verb or flag the command line does not have, with the file and the reason."""
    root = typer.main.get_command(app)
    for passage in found:
        for match in COMMAND.finditer(passage.text.replace("\\\n", " ")):
            words = match[1].split()
            command = root
            while isinstance(command, TyperGroup) and words:
                if words[0] in command.commands:
                    command = command.commands[words.pop(0)]
                    continue
                if words[0].startswith("-") or (command is not root and words[0] == "{}"):
                    break
                if command is root or (re.fullmatch(r"[a-z-]{3,}", words[0]) and words[0] not in PROSE):
                    yield f"{passage.place}: `{match[0].strip()}`: there is no {words[0]!r}"
                break
            flags = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
            used = [word.partition("=")[0].rstrip(".,:") for word in words if re.match(r"--[a-z]", word)]
            if command.context_settings.get("ignore_unknown_options"):
                continue
            yield from (f"{passage.place}: `{match[0].strip()}`: no {flag}" for flag in used if flag not in flags)


# Words that may follow the name of a group of verbs in a sentence, as in "`lipsync cloud` asks for that".
PROSE = {"and", "asks", "with", "prints", "has", "needs", "shows", "then", "from"}


def test_every_command_that_is_named_exists(everything: list[Passage]) -> None:
    assert not list(wrong_commands(everything))


def test_every_make_verb_that_is_named_exists(everything: list[Passage]) -> None:
    verbs = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wrong = [f"{passage.place}: make {verb}" for passage in everything for verb in VERB.findall(passage.text)]
    assert not [line for line in wrong if line.rpartition(" ")[2] not in verbs]


def test_every_setting_that_is_named_is_read(everything: list[Passage]) -> None:
    settings = {f"LIPSYNC_{name.upper()}" for name in Settings.model_fields}
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            settings |= {str(choice).upper() for choice in field.validation_alias.choices}
    known = settings | set(names_read())
    wrong = {
        (name, passage.place) for passage in everything for name in SETTING.findall(passage.text) if name not in known
    }
    assert not sorted(wrong)


def names_read() -> Iterator[str]:
    """LIPSYNC_ variables that programs outside the settings read: tests, tools, the image and the command line."""
    # The address of a provider, which the tests set to their stand-in.
    yield from (f"LIPSYNC_{provider.upper()}_URL" for provider in PROVIDERS)
    for name in tracked_files():
        if name.endswith((".py", ".mts", ".ts", ".sh", ".yml", ".yaml", "Makefile", "package.json")):
            text = (ROOT / name).read_text(encoding="utf-8")
            yield from re.findall(
                r"(?:environ(?:\.get)?[\[(]\s*[\"']|getenv\([\"']|envvar=[\"']|process\.env\.|\$\{?)(LIPSYNC_[A-Z0-9_]+)",
                text,
            )


def test_every_file_that_is_named_exists(everything: list[Passage]) -> None:
    """A page or docstring may name a file by the end of its path: `engines/base.py`, or `base.py` alone."""
    tails = set()
    for name in tracked_files():
        parts = PurePosixPath(name).parts
        tails |= {"/".join(parts[at:]) for at in range(len(parts))}
    wrong = {
        (passage.place, name)
        for passage in everything
        for name in FILE.findall(passage.text)
        if name.removeprefix("./").removeprefix("../") not in tails | NOT_OURS and not name.startswith(EXAMPLES)
    }
    assert not sorted(wrong)


def test_every_module_that_is_run_exists(everything: list[Passage]) -> None:
    modules = {name.removeprefix("server/").removesuffix(".py").replace("/", ".") for name in tracked_files()}
    wrong = {
        (passage.place, module)
        for passage in everything
        for module in MODULE.findall(passage.text)
        if not {module, f"{module}.__main__"} & modules
    }
    assert not sorted(wrong)


def test_every_link_into_the_repository_leads_somewhere(everything: list[Passage]) -> None:
    """A folder has the anchors of its README, which GitHub shows below the folder."""
    wrong = set()
    for passage in everything:
        for target, anchor in OWN_LINK.findall(passage.text):
            place = ROOT / target
            page = place / "README.md" if place.is_dir() else place
            if not place.exists() or (anchor and anchor != "readme" and anchor not in heading_ids(page)):
                wrong.add((passage.place, target, anchor))
    assert not sorted(wrong)


def test_every_extra_that_is_named_can_be_installed(everything: list[Passage]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    wrong = {
        (passage.place, extra)
        for passage in everything
        for found in EXTRA.findall(passage.text)
        for extra in found.split(",")
        if extra not in extras
    }
    assert not sorted(wrong)


@pytest.mark.parametrize(
    ("sentence", "complaint"),
    [
        ("run: lipsync weights download infinitetalk-int8", "there is no 'download'"),
        ("run `lipsync serv`", "there is no 'serv'"),
        ("`lipsync serve --prot 80`", "no --prot"),
    ],
)
def test_a_command_that_does_not_exist_is_found(sentence: str, complaint: str) -> None:
    [found] = wrong_commands([Passage("a page", sentence)])
    assert found.endswith(complaint)


@pytest.mark.parametrize("sentence", ["`lipsync weights pull {}`", "Lipsync works", "`lipsync cloud` asks for that"])
def test_a_command_that_exists_is_not_reported(sentence: str) -> None:
    assert not list(wrong_commands([Passage("a page", sentence)]))
