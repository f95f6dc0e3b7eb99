"""Imports go one way, in the whole server.

`FLOORS` lists the rooms (the folders and modules below lipsync_server) from the top down. The tests read every import
of every file: at the top, inside a function, and by name with importlib. They know the source text only; the last test
alone imports something.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import lipsync_server
import pytest

PACKAGE = Path(lipsync_server.__file__).parent
NAME = "lipsync_server"

# A room imports rooms of lower floors only, and rooms of one floor do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("bench",),
    ("cli", "settings_table", "options_table"),
    ("weights_table",),
    ("selftest",),
    ("http", "library"),
    ("doctor",),
    ("cloud", "jobs"),
    ("workers",),
    ("check",),
    ("random_models",),
    ("engines",),
    ("media", "models", "weights"),
    ("settings",),
)
# Modules directly below lipsync_server that FLOORS does not name are the ground: they import nothing but the ground.
GROUND = len(FLOORS)

# The command `lipsync bench` starts a benchmark, which is above every room.
ALLOWED_CLIMBS = {("cli.bench", "bench")}
MADE_FOR_MEASURING = ("bench", "random_models")
# Engines whose computation is a torch model. Every other engine, and every room but these, runs without torch.
TORCH_ENGINES = ("infinitetalk", "sadtalker", "flashhead")
TORCH_ROOMS = ("models", "random_models", "bench", *(f"engines.{name}" for name in TORCH_ENGINES))
# Libraries of the floors above an engine: HTTP and the database.
ABOVE_ENGINES = ("aiohttp", "aiosqlite", "sqlite3")


def read_modules() -> dict[str, Path]:
    """Every module of the server by its name without `lipsync_server.`; the package itself is "" and left out."""
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            modules[name] = path
    return modules


MODULES = read_modules()


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every module that a piece of code imports, in full, whether in a statement or by importlib with a fixed name."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
IMPORTED = {name: set(names_in(tree)) for name, tree in TREES.items()}


def own(names: Iterable[str]) -> set[str]:
    """The server's own modules among imported names; a package counts only where nothing below it was named."""
    found = {name.removeprefix(f"{NAME}.") for name in names if name.startswith(f"{NAME}.")} & MODULES.keys()
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


ARROWS = {name: own(imported) - {name} for name, imported in IMPORTED.items()}


def inside(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def floor_of(module: str) -> int:
    room = module.partition(".")[0]
    return next((floor for floor, rooms in enumerate(FLOORS) if room in rooms), GROUND)


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle of a directed graph, in order; empty if there is none."""
    finished: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in finished:
            return []
        for target in sorted(graph[node]):
            if found := walk(target, [*path, node]):
                return found
        finished.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def contracted(package: str) -> dict[str, set[str]]:
    """The imports between the children of a package, each file and each folder as one node. "" is the server."""
    start = f"{package}." if package else ""

    def child(module: str) -> str | None:
        return module.removeprefix(start).partition(".")[0] if module.startswith(start) else None

    graph: dict[str, set[str]] = {}
    for module, targets in ARROWS.items():
        if (name := child(module)) is not None:
            graph.setdefault(name, set()).update(
                other
                for target in targets
                if (module, target.partition(".")[0]) not in ALLOWED_CLIMBS
                and (other := child(target)) is not None
                and other != name
            )
    return graph


# Calls that open a file of tensors. All code reads model files through the one room that checks them.
READERS_OF_TENSORS = ("torch.load", "safe_open", "load_file", "safetensors.torch.load")
ROOM_OF_TENSOR_FILES = "models.tensor_files"


def calls_in(tree: ast.AST) -> set[str]:
    """Every called name, with the dots before it."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_tensor_files_are_opened_in_one_room() -> None:
    opening = {name for name, tree in TREES.items() if calls_in(tree) & set(READERS_OF_TENSORS)}
    assert opening
    assert {name for name in opening if not inside(name, (ROOM_OF_TENSOR_FILES,))} == set()


def test_every_folder_with_code_has_a_floor() -> None:
    rooms = {room for floor in FLOORS for room in floor}
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders <= rooms, f"give {sorted(folders - rooms)} a place in FLOORS"
    assert rooms <= {name.partition(".")[0] for name in MODULES}, "FLOORS names a room that is gone"


def exists(name: str) -> bool:
    """Whether an imported name of the server is a module, or defined or imported in the module before its last dot."""
    short = name.removeprefix(f"{NAME}.")
    if name == NAME or short in MODULES:
        return True
    module, _, attribute = short.rpartition(".")
    return attribute in words_of(module)


@cache
def words_of(module: str) -> frozenset[str]:
    """The words of a module without its comments; none of a module that is not there. "" is the server's package."""
    tree = TREES.get(module) if module else ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    return frozenset() if tree is None else frozenset(re.findall(r"\w+", ast.unparse(tree)))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_what_exists(module: str) -> None:
    """A module that moved leaves no import behind, not even one inside a function that no test calls."""
    own_names = {name for name in IMPORTED[module] if name == NAME or name.startswith(f"{NAME}.")}
    assert not sorted(name for name in own_names if not exists(name))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_lower_floors_only(module: str) -> None:
    room = module.partition(".")[0]
    wrong = [
        target
        for target in sorted(ARROWS[module])
        if (other := target.partition(".")[0]) != room
        and (module, other) not in ALLOWED_CLIMBS
        and floor_of(target) <= floor_of(module) != GROUND
    ]
    if floor_of(module) == GROUND:
        wrong += [target for target in sorted(ARROWS[module]) if floor_of(target) != GROUND]
    assert not wrong, f"{module} is on the same floor as these or below them"


def test_no_module_imports_itself_through_other_modules() -> None:
    assert not circle_in(ARROWS)


@pytest.mark.parametrize("package", ["", *sorted(name for name, path in MODULES.items() if path.name == "__init__.py")])
def test_the_files_and_folders_of_a_package_import_each_other_without_a_circle(package: str) -> None:
    assert not circle_in(contracted(package))


def test_an_engine_imports_no_other_engine() -> None:
    engines = [path.name for path in (PACKAGE / "engines").iterdir() if (path / "__init__.py").exists()]
    assert len(engines) >= 3
    wrong = [
        f"{module}: {target}"
        for engine in engines
        for module in MODULES
        if inside(module, [f"engines.{engine}"])
        for target in ARROWS[module]
        if inside(target, [f"engines.{other}" for other in engines if other != engine])
    ]
    assert not wrong


def test_models_know_no_engine() -> None:
    assert not [
        f"{name}: {to}" for name in MODULES if inside(name, ["models"]) for to in ARROWS[name] if "engines" in to
    ]


def test_product_code_imports_no_benchmark_and_no_random_model() -> None:
    wrong = [
        f"{module}: {target}"
        for module in MODULES
        if not inside(module, MADE_FOR_MEASURING)
        for target in ARROWS[module]
        if inside(target, MADE_FOR_MEASURING) and (module, target.partition(".")[0]) not in ALLOWED_CLIMBS
    ]
    assert not wrong


def test_engines_and_models_know_no_http_and_no_database() -> None:
    wrong = [
        f"{module}: {library}"
        for module in MODULES
        if inside(module, ("engines", "models", "media"))
        for library in ABOVE_ENGINES
        if any(name.partition(".")[0] == library for name in IMPORTED[module])
    ]
    assert not wrong


def test_torch_is_imported_only_where_models_are_computed() -> None:
    wrong = [
        module
        for module in MODULES
        if not inside(module, TORCH_ROOMS) and any(name.partition(".")[0] == "torch" for name in IMPORTED[module])
    ]
    assert not wrong


def test_the_server_process_starts_without_torch() -> None:
    """Import the whole of the command line, HTTP and the descriptions of all engines in a fresh interpreter."""
    code = (
        "import sys; from lipsync_server.cli import app; from lipsync_server.http import serve; "
        "from lipsync_server.engines import registry; "
        "heavy = {'torch', 'transformers', 'diffusers', 'ray'} & sys.modules.keys(); "
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
