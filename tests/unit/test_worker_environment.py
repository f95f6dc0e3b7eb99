"""A worker's environment holds what its libraries need, and no secret whatever its name."""

import pickle

from lipsync_server.settings import Settings
from lipsync_server.workers.environment import child_environment, forget_secrets
from pydantic import SecretStr

NEEDED = {
    "PATH": "/usr/bin",
    "HOME": "/home/lipsync",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "CUDA_HOME": "/usr/local/cuda",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "TRITON_CACHE_DIR": "/weights/.compiled/triton",
    "TORCHINDUCTOR_CACHE_DIR": "/weights/.compiled",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "PYTHONUNBUFFERED": "1",
    "LC_ALL": "C.UTF-8",
    "TMPDIR": "/scratch",
}
SECRETS = {
    "LIPSYNC_TOKENS": "alice:secret",
    "API_TOKEN": "secret",
    "LIPSYNC_WEBHOOK_SECRET": "secret",
    "LIPSYNC_TUNNEL": "secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "secret",
    "VAST_API_KEY": "secret",
    "CONTAINER_API_KEY": "secret",
    "RUNPOD_API_KEY": "secret",
    "HF_TOKEN": "secret",
    "NVIDIA_API_KEY": "secret",
    "PYTHON_KEYRING_PASSWORD": "secret",
    "DATABASE_URL": "postgres://lipsync:secret@db/lipsync",
    "HTTPS_PROXY": "http://me:secret@proxy",
    "MY_OWN_THING": "secret",
}


def test_no_secret_is_in_a_workers_environment_and_nothing_it_needs_is_missing() -> None:
    child = child_environment(Settings(), 0, {**NEEDED, **SECRETS})
    assert not [name for name, value in child.items() if "secret" in value]
    assert NEEDED.items() <= child.items()


def test_an_actor_forgets_the_secrets_that_its_ray_was_started_with() -> None:
    environment = {**NEEDED, **SECRETS, "RAY_AUTH_MODE": "token", "RAY_ADDRESS": "10.0.0.1:6379"}
    forget_secrets(environment)
    assert environment == {**NEEDED, "RAY_AUTH_MODE": "token", "RAY_ADDRESS": "10.0.0.1:6379"}


def test_the_settings_of_a_worker_have_no_secrets() -> None:
    settings = Settings.model_validate(
        {"tokens": ["alice:a-secret"], "webhook_secret": SecretStr("a-secret"), "tunnel": "a-secret"}
    )
    assert b"a-secret" not in pickle.dumps(settings.for_workers())
