"""Names of engines come from the registry alone: no other part of the server decides by the name of an engine.

The test reads the source text of every module outside the rooms that belong to one engine. A name in a docstring is for
people and is free. Every other place needs a reason in ALLOWED.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import lipsync_server
import pytest
from lipsync_server.engines.registry import SHIPPED

PACKAGE = Path(lipsync_server.__file__).parent
# The folders of one engine each; `bench` and `random_models` have a part for each engine, `models` serves several.
ENGINES_OWN = ("models", "random_models", "bench", *(f"engines/{name}" for name in SHIPPED))
# FlashTalk is a model of an engine, with rows of its own in the bill.
NAMES = (*SHIPPED, "flashtalk")
ALLOWED = {
    "check/agreement.py": "measures a video with the preview's prediction of the mouth, whatever engine made it",
    "engines/registry.py": "the list itself",
    "settings.py": "the old values of RESOLUTION, infinitetalk-480 and -720, which stay understood",
    "weights_table.py": "writes the tables of docs/options.md about InfiniteTalk's LoRA keys and memory",
}

# `preview` is also a word of the field: a preview picture. It counts where it is the whole text.
WORD = re.compile(rf"\b({'|'.join(name for name in NAMES if name != 'preview')})\b|^preview$")
IMPORT = re.compile(rf"^lipsync_server\.engines\.({'|'.join(NAMES)})\b")


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of the nodes that are texts for people: a text that is a statement of its own."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def engine_names_in(source: str) -> Iterator[str]:
    """Each text, and each imported module, that names an engine, with its line."""
    tree = ast.parse(source)
    free = docstrings(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in free and WORD.search(text):
                yield f"line {node.lineno}: {text[:60]!r}"
            case ast.ImportFrom(module=str(module)) if IMPORT.search(module):
                yield f"line {node.lineno}: import of {module}"
            case ast.Import(names=names) if any(IMPORT.search(alias.name) for alias in names):
                yield f"line {node.lineno}: import of {names[0].name}"


def outside_the_engines() -> list[str]:
    paths = (path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
    return sorted(path for path in paths if not path.startswith(tuple(f"{room}/" for room in ENGINES_OWN)))


@pytest.mark.parametrize("path", outside_the_engines())
def test_a_module_outside_the_engines_names_none(path: str) -> None:
    found = list(engine_names_in((PACKAGE / path).read_text(encoding="utf-8")))
    if path in ALLOWED:
        assert found, f"{path} names no engine any more; remove it from ALLOWED"
    else:
        assert found == [], "declare it in the engine's folder (datasheet.py, model_files.py) and read the registry"


@pytest.mark.parametrize(
    "source",
    [
        'if engine == "preview":\n    pass\n',
        'TABLE = {"sadtalker-256": 1}\n',
        "def f():\n    from lipsync_server.engines.flashhead import published\n",
        "import lipsync_server.engines.infinitetalk.options\n",
        'message = f"model=flashtalk {x}"\n',
    ],
)
def test_a_name_in_the_code_is_found(source: str) -> None:
    assert list(engine_names_in(source))


def test_a_name_in_a_docstring_is_free() -> None:
    assert not list(engine_names_in('"""For sadtalker."""\nX = 1\n"""A profile, for example infinitetalk-int8."""\n'))


NODE = Path(__file__).parents[2] / "n8n-node" / "nodes"
NODE_ALLOWED = {
    "Lipsync/resources/machine/start.ts": "the profile of `lipsync cloud up`, which test_cloud_providers.py compares",
}


def test_the_n8n_node_asks_the_server_for_the_names() -> None:
    sources = sorted(path.relative_to(NODE).as_posix() for path in NODE.rglob("*.ts"))
    assert len(sources) > 50
    quoted = re.compile(r"'[^'\n]*'|`[^`]*`")
    naming = {
        source
        for source in sources
        for text in quoted.findall(re.sub(r"/\*.*?\*/|//[^\n]*", "", (NODE / source).read_text("utf-8"), flags=re.S))
        if WORD.search(text[1:-1])
    }
    assert naming == set(NODE_ALLOWED)
