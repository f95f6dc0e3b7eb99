"""An engine of another package is in the bill, the doctor, the list of weights and the benchmark.

It shows there with the figures and files that it declares; without a declaration it is "not measured". The package
is on the path of a child process, with the metadata that pip would write.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

INFO = """
from lipsync_server.engines.base import EngineInfo

def describe(settings):
    return EngineInfo("wobble", "Rocks the picture", available=True, reason="")
"""
DATA_SHEET = """
from lipsync_server.engines.datasheet import DataSheet, Speed, name_row_by_preset

SHEET = DataSheet(
    name_row_by_preset("wobble"),
    speeds=(Speed("RTX 4090", "wobble", "fast", 0.25, "measured", "by its authors"),),
    suits=("wobble-large", 2**30),
)
"""
BENCH = "def measure(asked):\n    print('wobble measured tiny:', asked.tiny)\n"
MODEL_FILES = """
from lipsync_server.engines.model_files import Conversion, FolderScan

def scan(folder):
    return FolderScan("wobble-large", models=("wobble in its folder",), presets=("fast",))

def convert(folder, number_format):
    target = folder / f"wobble.{number_format}"
    target.write_bytes(bytes(8))
    return target

CONVERSIONS = (Conversion("wobble", ("int4",), convert),)
"""


def manifest(*, source: str = "hub") -> str:
    file = {"source": source, "path": "large.bin", "size_bytes": 2_000_000_000, "size_exact": True, "sha256": None}
    return json.dumps(
        {
            "version": 1,
            "sources": {
                "hub": {
                    "repository": "someone/wobble",
                    "revision": "main",
                    "folder": "wobble",
                    "licence": "MIT",
                    "what": "wobble",
                }
            },
            "files": {"wan-vae": file},
            "profiles": {
                "wobble-large": {"engine": "wobble", "title": "Wobble, large", "files": ["wan-vae"]},
                "sadtalker-256": {"engine": "wobble", "title": "taken", "files": ["wan-vae"]},
                "stranger": {"engine": "preview", "title": "of another engine", "files": ["wan-vae"]},
            },
        }
    )


def install(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Write the package and its metadata; the environment of a process that has it."""
    info = folder / "lipsync_wobble-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lipsync-wobble\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[lipsync.engines]\nwobble = lipsync_wobble\n", encoding="utf-8")
    package = folder / "lipsync_wobble"
    package.mkdir()
    options = "from lipsync_server.engines.base import EngineOptions as Options\n"
    for name, text in ({"__init__.py": "", "options.py": options, "info.py": INFO} | files).items():
        (package / name).write_text(text, encoding="utf-8")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "XDG_CONFIG_HOME": str(folder / "settings"), "COLUMNS": "200"}


def lipsync(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "lipsync_server.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def test_an_engine_that_declares_its_figures_shows_with_them_everywhere(tmp_path: Path) -> None:
    environment = install(
        tmp_path / "site",
        {
            "datasheet.py": DATA_SHEET, "bench.py": BENCH, "model_files.py": MODEL_FILES, "manifest.json": manifest(),
        },
    )  # fmt: skip
    weights = tmp_path / "weights"
    weights.mkdir()

    _, bill = lipsync(environment, "cost", "--engine", "wobble")
    assert "wobble fast" in bill
    assert "Speed, RTX 4090, wobble fast: measured, by its authors." in bill

    _, found = lipsync(environment, "doctor", "--json")
    findings = {one["name"]: one for one in json.loads(found)["findings"]}
    assert "engine wobble" in findings
    assert findings["weights of wobble"]["advice"] == "Download them with: lipsync weights pull wobble-large."
    assert "2.0 GB" in findings["weights of wobble"]["detail"]

    _, listed = lipsync(environment, "weights", "list")
    assert "Wobble, large" in listed
    assert "taken" not in listed
    assert "of another engine" not in listed

    _, scanned = lipsync(environment, "weights", "scan", str(weights))
    assert "engine wobble: wobble in its folder" in scanned
    assert "presets of wobble: fast" in scanned

    code, converted = lipsync(environment, "weights", "convert", "wobble", "--weights-dir", str(weights))
    assert (code, (weights / "wobble.int4").stat().st_size) == (0, 8), converted

    _, measured = lipsync(environment, "bench", "--random-weights", "--engine", "wobble", "--tiny")
    assert "wobble measured tiny: True" in measured


def test_an_engine_that_declares_nothing_is_listed_as_not_measured(tmp_path: Path) -> None:
    environment = install(tmp_path / "site", {})
    _, bill = lipsync(environment, "cost")
    assert "wobble: not measured. Measure it with `lipsync bench --share --engine wobble`." in bill
    code, refused = lipsync(environment, "cost", "--engine", "wobble")
    assert code == 2
    assert "wobble: not measured on these cards" in refused
    own = tmp_path / "own.json"
    speed = {"engine": "wobble", "seconds_per_second": 0.5, "sound_s": 30}
    own.write_text(json.dumps({"card": "AMD EPYC", "versions": {}, "measured_on": "2026-11-28", "speeds": [speed]}))
    _, refused = lipsync(environment, "cost", "--engine", "wobble", "--measured", str(own))
    assert "You measured AMD EPYC, which these offers do not have; give --gpu and --price." in refused
    _, bill = lipsync(
        environment, "cost", "--engine", "wobble", "--measured", str(own), "--gpu", "AMD EPYC", "--price", "0.1"
    )
    assert "Speed, AMD EPYC, wobble: measured, by you" in bill
    assert "with wobble: about" in bill
    code, refused = lipsync(environment, "bench", "--random-weights", "--engine", "wobble")
    assert code == 2
    assert "not 'wobble'" in refused


def test_a_spoilt_declaration_leaves_the_other_engines_as_they_are(tmp_path: Path) -> None:
    spoilt = {"datasheet.py": "raise RuntimeError('broken on purpose')\n", "manifest.json": manifest(source="nowhere")}
    environment = install(tmp_path / "site", spoilt)
    code, bill = lipsync(environment, "cost")
    assert code == 0
    assert "infinitetalk balanced" in bill
    assert "wobble: not measured." in bill
    code, listed = lipsync(environment, "weights", "list")
    assert code == 0
    assert "sadtalker-256" in listed
    assert "nowhere" in listed
    assert "Wobble, large" not in listed
