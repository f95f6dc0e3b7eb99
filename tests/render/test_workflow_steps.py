"""The shell steps of the workflows for CI and docs run: in a copy of this checkout, with the Python of these tests.

The release's steps are in test_release.py.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LISTS = ("pyproject.toml", "constraints.txt", "package.json", "package-lock.json")


def shell_steps(workflow: str) -> list[str]:
    """The shell scripts of a workflow, in order."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text(encoding="utf-8"))["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git tracks, as one commit, whose .venv is this Python's environment."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("the steps run in a git checkout")
    folder = tmp_path_factory.mktemp("checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    for name in LISTS:
        os.utime(folder / name, (0, 0))  # the environment is as new as its lists: nothing is installed
    for command in ("init -q", "add -A", "-c user.name=x -c user.email=x@x commit -q -m all"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return folder


def run(script: str, folder: Path) -> None:
    """Run a step as a runner does, with bash -e; fails with the step's output."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "server")}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{script}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"


def test_the_steps_of_the_docs_workflow_succeed(checkout: Path) -> None:
    steps = shell_steps("docs.yml")
    assert any("make docs" in step for step in steps)
    for step in steps:
        run(step, checkout)


def test_a_page_that_the_code_does_not_write_stops_the_docs_workflow(checkout: Path) -> None:
    page = checkout / "README.md"
    before = page.read_text(encoding="utf-8")
    page.write_text(
        before.replace("| `LIPSYNC_MAX_QUEUE` | `100` |", "| `LIPSYNC_MAX_QUEUE` | `99` |"), encoding="utf-8"
    )
    try:
        subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qam", "x"], cwd=checkout, check=True
        )
        with pytest.raises(AssertionError, match="LIPSYNC_MAX_QUEUE"):
            run(shell_steps("docs.yml")[0], checkout)
    finally:
        subprocess.run(["git", "reset", "-q", "--hard", "HEAD~"], cwd=checkout, check=True)


def test_the_style_step_of_ci_succeeds_and_the_others_name_programs_that_are_here(checkout: Path) -> None:
    """Types and all tests need minutes and run in CI anyway, so make only prints their commands here."""
    steps = shell_steps("ci.yml")
    assert steps[0].split()[:2] == ["make", "lint"]
    run("make lint", checkout)
    for step in steps:
        verbs = step.split()
        assert verbs[0] == "make", step
        printed = subprocess.run(["make", "-n", *verbs[1:]], cwd=checkout, capture_output=True, text=True, check=True)
        programs = [
            word
            for line in printed.stdout.splitlines()
            for word in line.split()
            if word.startswith((".venv/", "tests/"))
        ]
        missing = [name for name in programs if "/bin/" in name and not (checkout / name).exists()]
        assert programs or "npm" in printed.stdout
        assert missing == []
