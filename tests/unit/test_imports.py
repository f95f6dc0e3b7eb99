"""Imports go one way: http -> jobs -> workers -> engines -> media, and torch stays in the model engines."""

import ast
from pathlib import Path

import lipsync_server
import pytest

PACKAGE = Path(lipsync_server.__file__).parent
FORBIDDEN = {
    "media": ("engines", "workers", "jobs", "http"),
    "engines": ("workers", "jobs", "http"),
    "workers": ("jobs", "http"),
    "jobs": ("http",),
}
TORCH_ROOMS = ("engines/sadtalker", "engines/infinitetalk", "models", "random_models", "bench")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_nothing_that_stands_above_it(room: str) -> None:
    above = tuple(f"lipsync_server.{name}" for name in FORBIDDEN[room])
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    wrong = [f"{path.name}: {name}" for path in files for name in imported(path) if name.startswith(above)]
    assert not wrong


def test_engines_know_no_http() -> None:
    wrong = [path.name for path in (PACKAGE / "engines").rglob("*.py") if "aiohttp" in imported(path)]
    assert not wrong


def test_torch_is_imported_only_below_the_model_engines() -> None:
    wrong = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if not str(path.relative_to(PACKAGE)).startswith(TORCH_ROOMS)
        and any(name.split(".")[0] == "torch" for name in imported(path))
    ]
    assert not wrong
