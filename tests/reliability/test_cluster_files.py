"""The files and commands of docs/cluster.md are valid for Ray and `lipsync`.

The commands themselves run in test_ray_cluster.py. No test checks that two real machines find each other with them.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from lipsync_server.cli.app import app
from typer.core import TyperGroup

pytest.importorskip("ray")

DOCS = Path(__file__).parents[2] / "docs"
FILES = ["cluster.md", "cluster/compose.yaml", "cluster/ray-cluster.yaml"]
VALUES = {
    "HEAD_ADDRESS": "10.0.0.1",
    "NODE_ADDRESS": "10.0.0.2",
    "LIPSYNC_IMAGE": "lipsync",
    "LIPSYNC_TOKENS": "n8n:secret",
    "RAY_AUTH_TOKEN": "of-the-machines",
}


def text_of(name: str) -> str:
    """The file with Docker's variables filled in."""
    return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda m: VALUES.get(m[1]) or m[2] or "", (DOCS / name).read_text())


def strings(value: object) -> list[str]:
    """Every text in a YAML document."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def commands(name: str, program: str) -> list[list[str]]:
    """The arguments of every `program` in the file, such as "ray start"."""
    text = text_of(name)
    lines = text.splitlines() if name.endswith(".md") else strings(yaml.safe_load(text))
    found = []
    for line in lines:
        for part in re.split(r"\s*&&|;|\s[>&]", re.sub(r"\s#.*|^#.*", "", line)):
            before, separator, rest = part.partition(f"{program} ")
            if separator and re.fullmatch(r"\s*(do |nohup |exec |env -u LIPSYNC_TOKENS |\w+=\S+\s+)*", before):
                found.append(shlex.split(rest))
    return found


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_every_flag_of_its_commands(name: str) -> None:
    from ray.scripts.scripts import start

    told = commands(name, "ray start")
    assert len(told) >= 2, "a first machine and another one"
    parsed = [start.make_context("start", arguments).params for arguments in told]
    assert [bool(each["head"]) for each in parsed] == [True] + [False] * (len(told) - 1)
    assert all(each["head"] or each["address"] for each in parsed)
    assert all(each["node_ip_address"] for each in parsed), "or Ray uses the public network"
    text = text_of(name)
    assert all(each["block"] for each in parsed) or "restart: unless-stopped" in text, "or nothing restarts Ray"


@pytest.mark.parametrize("name", FILES)
def test_lipsync_accepts_every_flag_of_its_commands(name: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    serve = group.commands["serve"]
    [arguments] = commands(name, "lipsync serve")
    given = serve.make_context("serve", arguments).params
    assert given["executor"] == "ray"
    assert given["host"] == "0.0.0.0", "others must reach it"


def test_the_launchers_file_is_one_that_ray_up_accepts() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(text_of("cluster/ray-cluster.yaml"))
    validate_config(prepare_config(config))
    assert config["provider"]["worker_ips"], "two machines"
    assert "~/.ray/auth_token" in config["file_mounts"]
    lines = [line for key in ("head_start_ray_commands", "worker_start_ray_commands") for line in config[key]]
    starts = [line for line in lines if "ray start" in line or "lipsync serve" in line]
    assert all("RAY_AUTH_MODE=token" in line and "while true" in line for line in starts)
    for line in lines:
        subprocess.run(["sh", "-n", "-c", line], check=True)


def test_the_compose_file_has_the_first_machine_and_every_further_one() -> None:
    services = yaml.safe_load(text_of("cluster/compose.yaml"))["services"]
    assert {name: service["profiles"] for name, service in services.items()} == {"head": ["head"], "node": ["node"]}
    for service in services.values():
        assert service["image"] == VALUES["LIPSYNC_IMAGE"]
        assert service["network_mode"] == "host"
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"] == VALUES["RAY_AUTH_TOKEN"]
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
        assert service["command"][:2] == ["sh", "-c"], "a program that the image's entry point starts by name"
        assert service["restart"] == "unless-stopped"
    assert services["head"]["environment"]["LIPSYNC_TOKENS"] == VALUES["LIPSYNC_TOKENS"]
    assert "LIPSYNC_TOKENS" not in services["node"]["environment"]
    assert services["node"]["healthcheck"] == {"disable": True}
    # The first machine keeps the server's data folder; both machines see the weights.
    assert any(volume.endswith(":/data") for volume in services["head"]["volumes"])
    assert all(any(volume.endswith(":/weights") for volume in each["volumes"]) for each in services.values())


def test_each_profile_needs_its_own_variables_only() -> None:
    """Compose fills in the whole file before it reads profiles, so `:?` would demand the variable on every machine."""
    text = (DOCS / "cluster/compose.yaml").read_text()
    demanded = set(re.findall(r"(?<!\$)\$\{(\w+):\?", text))
    assert demanded == {"LIPSYNC_IMAGE", "RAY_AUTH_TOKEN", "HEAD_ADDRESS"}
