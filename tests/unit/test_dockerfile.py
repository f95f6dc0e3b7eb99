"""The Dockerfile and its entry point keep their promises, as far as can be tested without building the image.

`make docker-check` really builds and tries the images; that takes minutes, root and buildah.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import split_layers
from constraints_for_tests import constraints_for
from dockerfile import Stage, stages, words
from lipsync_server.cloud import published
from lipsync_server.extras import IN_GPU_IMAGE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built() -> dict[str, Stage]:
    return stages(ROOT / "Dockerfile")


def test_hadolint_finds_no_fault() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_default_target_is_the_one_for_gpus(built: dict[str, Stage]) -> None:
    assert list(built)[-1] == "gpu"
    assert built["base"].base.startswith("debian:")


def test_a_docker_that_runs_every_stage_above_the_target_builds_the_cpu_image_without_the_gpus(
    built: dict[str, Stage],
) -> None:
    """Docker before version 23 does so, and the GPU image's stages download gigabytes."""
    names = list(built)
    above = set(names[: names.index("cpu")])
    needed, waiting = set[str](), ["cpu"]
    while waiting:
        stage = built[waiting.pop()]
        copied = [word.removeprefix("--from=") for _, rest in stage.steps for word in rest.split() if "--from=" in word]
        waiting += [name for name in (stage.base, *copied) if name in built and name not in needed]
        needed |= {stage.base, *copied} & built.keys()
    assert above == needed


def chain(built: dict[str, Stage], name: str) -> list[tuple[str, str]]:
    """The steps of a stage with the steps of the stages below it, from the bottom up."""
    stage = built[name]
    return (chain(built, stage.base) if stage.base in built else []) + stage.steps


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_both_targets_have_volumes_and_a_health_check_and_start_as_a_user(built: dict[str, Stage], target: str) -> None:
    all_steps = chain(built, target)
    steps = dict(all_steps)
    assert words(steps["VOLUME"]) == ["/data", "/weights"]
    assert "lipsync_server.http.healthcheck" in steps["HEALTHCHECK"]
    assert words(steps["ENTRYPOINT"]) + words(steps["CMD"]) == ["tini", "--", "entrypoint.sh", "serve"]
    assert ("COPY", "docker/entrypoint.sh /usr/local/bin/entrypoint.sh") in all_steps
    environment = " ".join(rest for instruction, rest in all_steps if instruction == "ENV")
    assert "LIPSYNC_HOST=0.0.0.0" in environment
    # RunPod's load balancer sets PORT, which a LIPSYNC_PORT in the image would override.
    assert "LIPSYNC_PORT" not in environment


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_edit_of_the_source_changes_the_last_layer_only(built: dict[str, Stage], target: str) -> None:
    """Only the stage `package` copies the source. The stage of the requirements copies lists of names alone."""
    assert built[target].steps[-1 if target == "cpu" else -2] == ("COPY", "--from=package /opt/package /opt/lipsync")
    copied = [rest for instruction, rest in chain(built, f"{target}-requirements") if instruction == "COPY"]
    assert copied == [
        "docker/get_cloudflared.py /tmp/get_cloudflared.py",
        "constraints.txt ./",
        f"--from=requirements /opt/{target}.txt ./",
        *(["docker/split_layers.py ./"] if target == "gpu" else []),
    ]


def test_each_image_can_be_built_with_more_extras_and_says_which_image_it_is(built: dict[str, Stage]) -> None:
    """A message about a missing extra names the build argument EXTRAS, and reads the mark to name the image."""
    steps = dict(built["requirements"].steps)
    assert steps["ARG"] == "EXTRAS="
    assert 'requirements.py s3 "$EXTRAS" > /opt/cpu.txt' in steps["RUN"]
    in_gpu_image = [extra for extra in ("gpu", "ray", "s3", "speech") if extra in IN_GPU_IMAGE]
    assert f'requirements.py {" ".join(in_gpu_image)} "$EXTRAS" > /opt/gpu.txt' in steps["RUN"]
    for target in ("cpu", "gpu"):
        assert f"echo {target} > /opt/lipsync/lipsync-image" in dict(built[f"{target}-requirements"].steps)["RUN"]


def test_the_largest_packages_become_layers_that_complete_the_environment(
    built: dict[str, Stage], tmp_path: Path
) -> None:
    environment, layers, root = tmp_path / "opt" / "lipsync", tmp_path / "layers", tmp_path / "root"
    site = Path("lib", "python3.11", "site-packages")
    names = {f"{name}/file" for layer in split_layers.LAYERS for name in layer} | {"numpy/file", "nvidia/cufile/file"}
    unused = {pattern.replace("*", "12") for pattern in split_layers.UNUSED}
    for name in names | unused:
        (environment / site / name).parent.mkdir(parents=True, exist_ok=True)
        (environment / site / name).write_text(name)
    split_layers.split(environment, layers)
    copied = [rest.split() for instruction, rest in built["gpu"].steps if instruction == "COPY"]
    from_layers = [words[-2] for words in copied if words[-1] == "/"]
    assert from_layers == [f"/layers/{number}" for number in range(1, len(split_layers.LAYERS) + 1)]
    for source in from_layers:
        shutil.copytree(layers / Path(source).name, root, dirs_exist_ok=True)
    shutil.copytree(environment, root / environment.relative_to("/"), dirs_exist_ok=True)
    whole = root / environment.relative_to("/") / site
    assert {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()} == names


def test_the_images_requirements_are_those_of_the_package() -> None:
    command = [sys.executable, "docker/requirements.py", "gpu,s3", ""]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    expected = {*project["dependencies"], *extras["models"], *extras["s3"], *extras["gpu"]} - {"lipsync-server[models]"}
    assert set(printed) == expected


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="root alone can start a program as another user"
)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def start(tmp_path: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the entry point with a `lipsync` that prints its user, its arguments and where kernels are kept."""
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    program = programs / "lipsync"
    program.write_text('#!/bin/sh\necho "$(id -u) $* $TRITON_CACHE_DIR"\n')
    program.chmod(0o755)
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LIPSYNC_DATA_DIR": str(tmp_path / "volume" / "data"),
        "LIPSYNC_WEIGHTS_DIR": str(tmp_path / "volume" / "weights"),
        **environment,
    }
    command = [str(ROOT / "docker" / "entrypoint.sh"), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@needs_root
def test_a_volume_that_belongs_to_root_is_given_to_the_servers_user(open_folder: Path) -> None:
    weights = open_folder / "volume" / "weights"
    weights.mkdir(parents=True)
    ended = start(open_folder, "serve")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"1000 serve {weights}/.compiled/triton\n"
    assert {path.stat().st_uid for path in (weights, open_folder / "volume" / "data")} == {1000}


@needs_root
def test_files_that_a_server_of_root_left_on_the_volume_are_given_to_the_user_too(open_folder: Path) -> None:
    """`cloud up` without an image runs as root; a later start with the image finds that server's files."""
    jobs = open_folder / "volume" / "data" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "video.mp4").touch()
    for folder in (open_folder / "volume" / "data", open_folder / "volume"):
        os.chown(folder, 1000, 1000)
    ended = start(open_folder, "serve")
    assert (ended.stderr, ended.stdout[:4]) == ("", "1000")
    assert {jobs.stat().st_uid, (jobs / "video.mp4").stat().st_uid} == {1000}


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_volume_of_another_user_is_used_without_running_as_root(open_folder: Path, mode: int) -> None:
    volume = open_folder / "volume"
    volume.mkdir()
    os.chown(volume, 4242, 4242)
    volume.chmod(mode)
    ended = start(open_folder, "serve")
    assert (ended.stderr, ended.stdout[:4]) == ("", "1000")
    assert volume.stat().st_uid == 4242


@needs_root
def test_compiled_kernels_are_kept_in_the_folder_that_the_owner_names(open_folder: Path) -> None:
    ended = start(open_folder, "serve", TRITON_CACHE_DIR="/elsewhere")
    assert ended.stdout == "1000 serve /elsewhere\n"


@needs_root
def test_the_images_kernels_are_offered_to_triton_and_newer_ones_kept(open_folder: Path) -> None:
    prebuilt, own = open_folder / "kernels", open_folder / "volume" / "weights" / ".compiled" / "triton"
    for key in ("AAA", "BBB"):
        (prebuilt / key).mkdir(parents=True)
        (prebuilt / key / "__grp___norm.json").write_text("of the image")
        (prebuilt / key / "_norm.cubin").write_text("machine code")
    (own / "BBB").mkdir(parents=True)
    (own / "BBB" / "__grp___norm.json").write_text("compiled here")
    ended = start(open_folder, "serve", PREBUILT_KERNELS_DIR=str(prebuilt))
    assert (ended.returncode, ended.stderr) == (0, "")
    found = {path.parent.name: path.read_text() for path in own.glob("*/*")}
    assert found == {"AAA": "of the image", "BBB": "compiled here"}
    assert (own / "AAA").stat().st_uid == 1000


@needs_root
def test_the_image_also_starts_programs_by_name(open_folder: Path) -> None:
    """docs/cluster/compose.yaml starts `sh` in the project's own image."""
    assert start(open_folder, "sh", "-c", "echo $(id -u) ray").stdout == "1000 ray\n"


def test_the_dockerignore_admits_every_file_that_the_image_copies(built: dict[str, Stage]) -> None:
    allowed = {line[1:].split("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    for stage in built.values():
        for instruction, rest in stage.steps:
            if instruction == "COPY" and not rest.startswith("--from"):
                assert {name.split("/")[0] for name in words(rest)[:-1]} <= allowed


def test_the_tests_use_the_images_versions_except_for_torch() -> None:
    """Without CUDA the tests compile the kernels with the image's compiler; a torch for CUDA brings its own."""
    shipped = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    without_cuda = set(constraints_for("2.13.0+cpu", ["filelock", "sympy>=1.13.3"]))
    assert without_cuda ^ set(shipped) == {"torch==2.10.0", "torchvision==0.25.0", "torch==2.13.0+cpu"}
    for_cuda = constraints_for("2.13.0", ["nvidia-cuda-nvrtc-cu12; platform_system == 'Linux'", "triton==3.7.1"])
    assert {"nvidia-cuda-nvrtc-cu12", "triton"}.isdisjoint(line.partition("==")[0] for line in for_cuda)


def test_the_image_runs_on_drivers_for_cuda_12() -> None:
    """Every library below torch is of CUDA 12, and `lipsync cloud` asks a host for no newer driver."""
    shipped = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    libraries = [line for line in shipped if line.startswith("nvidia-")]
    assert len(libraries) >= 10
    assert all("-cu12==" in line for line in libraries if "sparselt" not in line)
    assert published.least_driver(published.IMAGE_CUDA) == 525
