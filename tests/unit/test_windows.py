"""On Windows the commands for renting and costs run, and the commands that render end with a reason in one sentence.

These tests run on Unix: a process without the modules that Python has on Unix alone stands in for Windows. The name of
the system is changed only in processes that load no library with code of its own for Windows.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from lipsync_server.cli.app import NEED_UNIX

AS_ON_WINDOWS = """
import sys, typer
import lipsync_server.cli
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # `import fcntl` now raises ImportError
if sys.argv.pop(1) == "named":
    sys.platform = "win32"
from lipsync_server.cli.app import app
app(sys.argv[1:], prog_name="lipsync", windows_expand_args=False)
"""


def run(folder: Path, *arguments: str, named: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_ON_WINDOWS, "named" if named else "not", *arguments],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize("verb", NEED_UNIX)
def test_a_command_that_renders_ends_with_the_reason_in_one_sentence(tmp_path: Path, verb: str) -> None:
    arguments = ["a.png", "b.wav"] if verb == "render" else []
    done = run(tmp_path, verb, *arguments, named=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: `lipsync {verb}` needs Linux or macOS")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["cost", "--videos", "45"],
        ["cloud", "status"],
        ["cloud", "template", "--provider", "vast", "--image", "me/lipsync:gpu"],
    ],
    ids=" ".join,
)
def test_the_commands_for_renting_and_costs_run(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPDATA", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    done = run(tmp_path, *arguments, named=False)
    assert done.returncode == 0, done.stderr
