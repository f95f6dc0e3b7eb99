"""The Dockerfile keeps its promises as far as can be told without building it.

`make docker-check` builds and runs the CPU target; that takes minutes and root.
"""

import subprocess
import sysconfig
from pathlib import Path

import pytest
from dockerfile import Stage, stages, words

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built() -> dict[str, Stage]:
    return stages(ROOT / "Dockerfile")


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    said = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, ""), said.stdout + said.stderr


def test_the_default_target_is_the_one_for_gpus(built: dict[str, Stage]) -> None:
    assert list(built)[-1] == "gpu"
    assert built["gpu-base"].base.startswith("nvidia/cuda:13.0")
    assert any('".[gpu,s3]"' in rest for _, rest in built["gpu-build"].steps)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_both_targets_run_as_a_user_with_volumes_and_a_health_check(built: dict[str, Stage], target: str) -> None:
    steps = dict(built[target].steps)
    assert steps["USER"] == "1000:1000"
    assert words(steps["VOLUME"]) == ["/data", "/weights"]
    assert "lipsync_server.http.healthcheck" in steps["HEALTHCHECK"]
    assert words(steps["ENTRYPOINT"]) + words(steps["CMD"]) == ["tini", "--", "lipsync", "serve"]
    assert "LIPSYNC_HOST=0.0.0.0" in steps["ENV"]
    # RunPod's load balancer sets PORT, which a LIPSYNC_PORT in the image would override.
    assert "LIPSYNC_PORT" not in steps["ENV"]


def test_what_the_image_copies_passes_the_dockerignore(built: dict[str, Stage]) -> None:
    allowed = {line[1:].split("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    for stage in built.values():
        for instruction, rest in stage.steps:
            if instruction == "COPY" and not rest.startswith("--from"):
                assert {name.split("/")[0] for name in words(rest)[:-1]} <= allowed
