"""The steps of the release workflow that can run here have the results that the workflow needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from lipsync_server import __version__
from lipsync_server.cloud.software import build_wheel
from lipsync_server.errors import InvalidInput

ROOT = Path(__file__).parents[2]
PLACEHOLDER = "n8n-nodes-lipsync/lipsync"
WORKFLOW = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")


def release(*arguments: str, root: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(root / ".ci" / "release.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that a release reads, with a section for the next version in the changelog."""
    for name in (
        ".ci/release.py",
        "server/lipsync_server/version.py",
        "server/lipsync_server/cloud/published.py",
        "n8n-node/package.json",
        "n8n-node/nodes/Lipsync/machines/published.ts",
        "n8n-node/nodes/Lipsync/Lipsync.node.json",
        "n8n-node/credentials/LipsyncApi.credentials.ts",
        "CHANGELOG.md",
        "weights/manifest.json",
    ):
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)
    return tmp_path


def follow_a_branch(checkout: Path, source: str) -> None:
    """Write `main` in place of the commit of one source into the checkout's list of weights."""
    manifest = checkout / "weights" / "manifest.json"
    listed = json.loads(manifest.read_text())
    listed["sources"][source]["revision"] = "main"
    manifest.write_text(json.dumps(listed))


def test_a_tag_that_names_the_version_may_be_released_with_the_shipped_list_of_weights(checkout: Path) -> None:
    ended = release("check", f"v{__version__}", root=checkout)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_weights_that_follow_a_branch_stop_the_release(checkout: Path) -> None:
    follow_a_branch(checkout, "city96-umt5")
    ended = release("check", f"v{__version__}", root=checkout)
    assert ended.returncode == 1
    assert "weights/manifest.json follows branches at city96-umt5: run" in ended.stderr
    assert "lipsync_server.weights.pin" in ended.stderr


def test_a_branch_is_no_reason_to_stop_if_the_list_has_the_checksum_of_each_file(checkout: Path) -> None:
    follow_a_branch(checkout, "sadtalker")
    assert release("check", f"v{__version__}", root=checkout).returncode == 0
    manifest = checkout / "weights" / "manifest.json"
    listed = json.loads(manifest.read_text())
    next(file for file in listed["files"].values() if file["source"] == "sadtalker")["sha256"] = None
    manifest.write_text(json.dumps(listed))
    assert "follows branches at sadtalker" in release("check", f"v{__version__}", root=checkout).stderr


def test_a_tag_of_another_version_stops_the_release(checkout: Path) -> None:
    ended = release("check", "v99.0.0", root=checkout)
    assert ended.returncode == 1
    assert "the tag is v99.0.0" in ended.stderr


def test_a_node_of_another_version_stops_the_release(checkout: Path) -> None:
    package = checkout / "n8n-node" / "package.json"
    package.write_text(package.read_text().replace(f'"version": "{__version__}"', '"version": "98.0.0"'))
    assert "98.0.0" in release("check", f"v{__version__}", root=checkout).stderr


def test_the_notes_are_the_changelogs_section(checkout: Path) -> None:
    page = "# Changelog\n\n## 1.1.0 - 2027-01-02\n\n### Added\n\n- This.\n\n## 1.0.0\n\n- That.\n"
    (checkout / "CHANGELOG.md").write_text(page)
    assert release("notes", "v1.1.0", root=checkout).stdout == "### Added\n\n- This.\n"
    assert "no section for 1.2.0" in release("notes", "v1.2.0", root=checkout).stderr


def test_the_images_name_is_that_of_the_repository_in_lower_case() -> None:
    assert release("image", "Some-Body/LipSync").stdout == "ghcr.io/some-body/lipsync\n"


def test_what_a_release_builds_knows_where_it_is_published(checkout: Path) -> None:
    """`lipsync cloud up` of a released package starts the image that the same release pushed."""
    assert release("name", "Some-Body/LipSync", root=checkout).returncode == 0
    names: dict[str, object] = {}
    exec((checkout / "server" / "lipsync_server" / "cloud" / "published.py").read_text(encoding="utf-8"), names)
    image = names["image"]
    assert callable(image)
    pushed = release("image", "Some-Body/LipSync").stdout.strip()
    assert image() == f"{pushed}:{__version__}-gpu"
    assert '--tag "$IMAGE:$VERSION-$TARGET"' in WORKFLOW
    assert WORKFLOW.count('.ci/release.py name "$GITHUB_REPOSITORY"') == 3
    assert release("name", "no owner", root=checkout).returncode == 1


def test_the_node_of_a_release_names_its_repository_and_its_image(checkout: Path) -> None:
    """npm refuses provenance for a package that names another repository than the one it was built in."""
    assert release("name", "Some-Body/LipSync", root=checkout).returncode == 0
    node = checkout / "n8n-node"
    package = json.loads((node / "package.json").read_text())
    assert package["repository"]["url"] == "git+https://github.com/Some-Body/LipSync.git"
    published = (node / "nodes/Lipsync/machines/published.ts").read_text()
    assert f"RELEASE = 'Some-Body/LipSync:{__version__}'" in published
    assert "Some-Body/LipSync" in (node / "credentials/LipsyncApi.credentials.ts").read_text()
    assert not [path for path in node.rglob("*") if path.is_file() and PLACEHOLDER in path.read_text()]


def test_the_placeholder_stands_only_where_a_release_replaces_it() -> None:
    """No other file has it, so that the person who publishes types no name."""
    listed = subprocess.run(
        ["git", "grep", "-l", PLACEHOLDER], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    replaced = ("n8n-node/credentials/", "n8n-node/nodes/", "n8n-node/package.json")
    allowed = (".ci/release.py", "tests/unit/test_release.py", "tests/support/written_names.py")
    assert [name for name in listed if not name.startswith(replaced) and name not in allowed] == []


def test_the_workflow_names_no_owner() -> None:
    """A fork is published without typing a name: owner and repository are the run's."""
    assert not re.findall(r"ghcr\.io/\S+|github\.com/\S+", WORKFLOW)
    assert "$GITHUB_REPOSITORY" in WORKFLOW


def test_wheel_and_source_archive_hold_the_package_and_its_small_models(tmp_path: Path) -> None:
    [command] = re.findall(r"run: python (-m hatchling build) -d dist", WORKFLOW)
    subprocess.run([sys.executable, *command.split(), "-d", tmp_path], cwd=ROOT, check=True, capture_output=True)
    [wheel], [archive] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert __version__ in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    small = {
        f"lipsync_server/bundled/{name}"
        for name in ("manifest.json", "face_landmarker.task", "preview_mouth.npz", "preview_mouth.LICENSE")
    }
    assert small | {"lipsync_server/py.typed", "lipsync_server/samples/speech.wav"} <= names
    assert not [name for name in names if name.startswith(("tests", "n8n-node"))]
    with tarfile.open(archive) as packed:
        assert f"lipsync_server-{__version__}/weights/manifest.json" in packed.getnames()
    assert archive.stat().st_size < 30e6


def test_the_wheel_of_this_checkout_runs_where_it_is_sent(tmp_path: Path) -> None:
    """`lipsync cloud up --from-source` builds it; unpacked, it is the program with its small models."""
    wheel = build_wheel(ROOT, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "there")
    command = [sys.executable, "-m", "lipsync_server.cli", "demo", "--engine", "preview", "--output", "demo.mp4"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "there")}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "demo.mp4").read_bytes()[4:8] == b"ftyp"


def test_a_wheel_that_cannot_be_built_is_reported_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no pyproject\.toml. Run it in a checkout"):
        build_wheel(tmp_path, tmp_path)
    (tmp_path / "pyproject.toml").write_text("[build-system\n")
    with pytest.raises(InvalidInput, match="could not be built"):
        build_wheel(tmp_path, tmp_path)
