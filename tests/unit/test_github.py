"""The files in .github/ are valid, and do nothing that the Makefile cannot do."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from lipsync_server.cloud.providers.vast import onstart
from lipsync_server.cloud.software import choose_software

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


def test_workflows_and_their_shell_steps_have_no_mistake_that_actionlint_knows() -> None:
    """Expressions, needs, outputs, and the runtimes of the actions; the shell steps go through shellcheck."""
    run("actionlint", "-shellcheck", PROGRAMS / "shellcheck", *WORKFLOWS)


def test_actionlint_reads_the_shell_steps(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    steps = "steps:\n      - run: rm $HOME/$1 *\n"
    broken.write_text(f"on: push\njobs:\n  one:\n    runs-on: ubuntu-24.04\n    {steps}")
    command: list[str | Path] = [PROGRAMS / "actionlint", "-shellcheck", PROGRAMS / "shellcheck", broken]
    assert "SC2086" in subprocess.run(command, capture_output=True, text=True).stdout


def test_shellcheck_has_nothing_to_say_about_the_scripts() -> None:
    command = ["git", "grep", "--untracked", "-lE", r"^#!.*\b(ba|da)?sh\b"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    scripts = [name for name in listed if (ROOT / name).read_text(encoding="utf-8").startswith("#!")]
    assert "docker/entrypoint.sh" in scripts
    run("shellcheck", *scripts)


@pytest.mark.parametrize("kind", ["a URL", "a wheel"])
def test_shellcheck_has_nothing_to_say_about_what_a_rented_machine_runs(kind: str, tmp_path: Path) -> None:
    wheel = tmp_path / "lipsync_server-1-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    software = choose_software(source="https://example.org/lipsync.zip" if kind == "a URL" else str(wheel))
    for name, script in (("start", software.script), ("onstart", onstart(software.script))):
        (tmp_path / name).write_text(script)
        run("shellcheck", "--shell=bash", tmp_path / name)


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
