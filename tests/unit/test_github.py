"""The files in .github/ are valid, and do nothing that the Makefile cannot do."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROGRAMS = Path(sysconfig.get_path("scripts"))


def run(program: str, *arguments: str | Path) -> str:
    """The output of a checker that found nothing; fails with the output otherwise."""
    ended = subprocess.run([PROGRAMS / program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_workflows_have_the_form_that_github_publishes() -> None:
    assert WORKFLOWS
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)


def test_dependabots_file_has_the_form_that_github_publishes() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ROOT / ".github" / "dependabot.yml")


def test_workflows_hand_no_secret_and_no_right_to_strangers() -> None:
    run("zizmor", "--offline", "--quiet", ".github")


def test_the_hooks_of_pre_commit_are_valid() -> None:
    run("pre-commit", "validate-config", ".pre-commit-config.yaml")


@pytest.mark.parametrize(
    "page",
    [*(path for path in WORKFLOWS if path.name != "release.yml"), ROOT / ".ci" / "run"],
    ids=lambda path: path.name,
)
def test_ci_runs_verbs_of_the_makefile(page: Path) -> None:
    verbs = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    used = re.findall(r"^\s*(?:- )?(?:run: )?make ([a-z0-9 -]+)$", page.read_text(encoding="utf-8"), re.M)
    assert used
    assert {verb for line in used for verb in line.split()} <= verbs
