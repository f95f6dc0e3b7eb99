"""Count the rooms, floors, arrows and circles of the server's packages: `python tests/support/layout.py [PACKAGE]`.

PACKAGE is a folder `lipsync_server`, for example of an older commit; by default the one of this checkout. Prints the
rows of the table in docs/architecture.md. A room is a module in the first row, and after that a file or folder directly
in the package. An arrow is an import between two rooms. A floor stands above all that it imports. A circle is a set of
rooms that import each other. Reads the source text and imports nothing.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

NAME = "lipsync_server"
PLACES = ("", "engines.infinitetalk", "engines.sadtalker", "http", "jobs", "workers", "media", "cloud")

Graph = dict[str, set[str]]


def modules_of(package: Path) -> dict[str, Path]:
    """Every module by its name without `lipsync_server.`; a package has the name of its folder."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imported_in(source: str, package: str) -> Iterator[str]:
    """The full name of every import, at the top and inside functions, and of importlib with a fixed name.

    package: the package in which the source's relative imports begin.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                full = ".".join([*above, *([module] if module else [])])
                yield full
                yield from (f"{full}.{alias.name}" for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def arrows_of(package: Path) -> Graph:
    """The modules that each module imports. A package counts only where nothing below it was named."""
    modules = modules_of(package)
    graph: Graph = {}
    for name, path in modules.items():
        whole = f"{NAME}.{name}"
        around = whole if path.name == "__init__.py" else whole.rpartition(".")[0]
        imports = imported_in(path.read_text("utf-8"), around)
        imported = {one.removeprefix(f"{NAME}.") for one in imports if one.startswith(f"{NAME}.")}
        known = imported & modules.keys() - {name}
        graph[name] = {one for one in known if not any(other.startswith(f"{one}.") for other in known)}
    return graph


def rooms_of(arrows: Graph, package: str) -> Graph:
    """The imports between the files and folders directly in a package; "" is the whole server."""
    start = f"{package}." if package else ""

    def room(module: str) -> str:
        return module.removeprefix(start).partition(".")[0] if module.startswith(start) else ""

    graph: Graph = {}
    for module, targets in arrows.items():
        if here := room(module):
            graph.setdefault(here, set()).update({room(target) for target in targets} - {"", here})
    return graph


def circles_of(graph: Graph) -> list[frozenset[str]]:
    """The sets of two or more rooms that reach each other."""
    reached = {room: _reached(graph, room) for room in graph}
    sets = {frozenset(other for other in reached[room] if room in reached[other]) for room in graph}
    return sorted((one for one in sets if len(one) > 1), key=sorted)


def n_floors(graph: Graph) -> int:
    """The length of the longest way down; the rooms of a circle count as one."""
    of_circle = {room: circle for circle in circles_of(graph) for room in circle}
    heights: dict[str, int] = {}

    def height(room: str) -> int:
        circle = of_circle.get(room, frozenset({room}))
        first = min(circle)
        if first not in heights:
            below = {target for one in circle for target in graph[one]} - circle
            heights[first] = 1 + max(map(height, below), default=0)
        return heights[first]

    return max(map(height, graph), default=0)


def _reached(graph: Graph, room: str) -> set[str]:
    found: set[str] = set()
    waiting = [room]
    while waiting:
        for target in graph.get(waiting.pop(), ()):
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found


def counted(graph: Graph) -> tuple[int, int, int, int]:
    """Rooms, floors, arrows, circles."""
    return len(graph), n_floors(graph), sum(map(len, graph.values())), len(circles_of(graph))


def main() -> None:
    here = Path(__file__).parents[2] / "server" / NAME
    arrows = arrows_of(Path(sys.argv[1]) if len(sys.argv) > 1 else here)
    print("| place | rooms, floors, arrows, circles |")
    print("|---|---|")
    print(f"| every module of the server | {', '.join(map(str, counted(arrows)))} |")
    for place in PLACES:
        title = f"`{place.replace('.', '/')}`" if place else "the top of the package"
        print(f"| {title} | {', '.join(map(str, counted(rooms_of(arrows, place))))} |")


if __name__ == "__main__":
    main()
