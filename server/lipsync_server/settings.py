"""The settings of the server, from environment variables LIPSYNC_*, a .env file and CLI flags.

The names PORT, API_TOKEN, RESOLUTION and STEPS of an older guide are accepted as aliases. The docstrings under the
fields are the source of the README's settings table and of `lipsync serve --help`. Settings are split into layers, so
that each part of the server receives only its own settings. An engine gets `EngineSettings`, a worker process gets
`RenderSettings`, and neither contains a secret. engines/registry.py checks the names of engines.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from dotenv import dotenv_values
from pydantic import AliasChoices, BaseModel, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lipsync_server.kernel_choices import parse_choices
from lipsync_server.quantization import Quantization
from lipsync_server.validation import nearest, show

MIB = 1024 * 1024
Preset = Literal["quality", "balanced", "fast"]


def _env(name: str, *aliases: str) -> AliasChoices:
    """The names under which a field with aliases is read."""
    # pydantic adds no LIPSYNC_ prefix to a field with an alias, so both spellings are listed.
    return AliasChoices(name, f"lipsync_{name}", *aliases)


# Variables that start with LIPSYNC_ and are no settings: the cloud verbs, the tests and the image read them.
_OTHER_VARIABLES = ("LIPSYNC_IMAGE", "LIPSYNC_COMMAND", "LIPSYNC_VAST_URL", "LIPSYNC_KEEP_HOME")
_OTHER_PREFIXES = ("LIPSYNC_TEST_", "LIPSYNC_N8N_", "LIPSYNC_SLOW_", "LIPSYNC_GOLDEN_")


def unknown_variables(environment: Iterable[str], env_file: Path = Path(".env")) -> list[str]:
    """A warning for each LIPSYNC_* name in the environment or .env that is no setting, with the most similar name."""
    names = dict.fromkeys(environment, "the environment")
    if env_file.is_file():
        names |= {name: str(env_file) for name in dotenv_values(env_file)}
    known = {f"LIPSYNC_{name.upper()}" for name in Settings.model_fields}
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            known |= {str(alias).upper() for alias in field.validation_alias.choices if isinstance(alias, str)}
    sentences = []
    for name, where in sorted(names.items()):
        upper = name.upper()
        if not upper.startswith("LIPSYNC_") or upper in known or upper in _OTHER_VARIABLES:
            continue
        if not upper.startswith(_OTHER_PREFIXES):
            hint = f" Did you mean {near}?" if (near := nearest(upper, sorted(known))) else ""
            sentences.append(f"{show(name)} in {where} is no setting and has no effect.{hint}")
    return sentences


def _split_commas(value: object) -> object:
    """The parts of a text between commas, without spaces around them. Other values do not change."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


class EngineSettings(BaseModel):
    """The settings that an engine receives."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    data_dir: Path = Path("data")
    """Jobs, uploads and finished videos."""
    weights_dir: Path = Path("weights")
    """Downloaded model weights."""

    engine: str = "auto"
    """The default engine. `auto` is the best engine whose weights and hardware are present."""
    profile: str = ""
    """A weights profile to download at start, for example `infinitetalk-int8-fast`."""
    resolution: str = Field(default="480p", validation_alias=_env("resolution", "RESOLUTION"))
    """Default resolution of the model engines: 480p or 720p (`infinitetalk-480` and `-720` are understood)."""
    steps: int | None = Field(default=None, ge=1, le=100, validation_alias=_env("steps", "STEPS"))
    """Default number of denoising steps; when unset, the preset decides."""
    preset: Preset = "balanced"
    """Default preset of the model engines."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    attention: Literal[
        "auto",
        "fp8",
        "int8",
        "int8_both",
        "bf16",
        "cudnn",
        "flash",
        "flash2",
        "flash3",
        "flash4",
        "sage",
        "xformers",
        "sdpa",
    ] = "auto"
    """Attention kernel of the model engines."""
    attention_density: float = Field(default=1.0, ge=0.1, le=1)
    """Share of all tokens that a token of InfiniteTalk attends to; below 1 is faster and less exact."""
    offload: Literal["auto", "none", "blocks"] = "auto"
    """Whether transformer blocks stay on the GPU or are streamed from host memory."""
    check_host_memory: bool = True
    """Refuse InfiniteTalk before its weights are read when this machine or container has too little memory for it."""
    quant: Literal["auto"] | Quantization = "auto"
    """Round 16-bit transformer weights to 8 bits while loading; `auto` rounds them only where they would not fit."""
    compile: bool = True
    """Use torch.compile on CUDA."""
    lora: Annotated[list[str], NoDecode] = []
    """LoRA files, `path`, `path:scale` or `path:scale:distilled`, by commas; merged for balanced and fast."""
    lora_dir: Path | None = None
    """A folder whose LoRA files jobs may name in the option `loras`."""
    choices: Annotated[list[str], NoDecode] = []
    """Fixes ways of computing that are measured on the card otherwise, `vae=plain,product=128x128x64` by commas."""
    gpus_per_worker: int = Field(default=1, ge=1, le=64)
    """Number of GPUs of one worker. InfiniteTalk splits each video over them: faster, not cheaper."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level of log lines that are written."""

    @field_validator("choices")
    @classmethod
    def _choices_exist(cls, value: list[str]) -> list[str]:
        parse_choices(value)
        return value

    @field_validator("lora", "choices", mode="before")
    @classmethod
    def _lora_from_text(cls, value: object) -> object:
        return _split_commas(value)

    @field_validator("device")
    @classmethod
    def _device_exists(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value):
            raise ValueError("must be auto, cpu, cuda, or cuda:N with the number of a card")
        return value

    @field_validator("resolution")
    @classmethod
    def _old_resolution_names(cls, value: str) -> str:
        names = {"infinitetalk-480": "480p", "infinitetalk-720": "720p", "480": "480p", "720": "720p"}
        resolution = names.get(value, value)
        if resolution not in ("480p", "720p"):
            raise ValueError("must be 480p or 720p (infinitetalk-480 and infinitetalk-720 are understood)")
        return resolution


class RenderSettings(EngineSettings):
    """The settings that a worker process receives: settings of its engines and of the video. None is a secret."""

    max_image_pixels: int = Field(default=64_000_000, ge=10_000)
    """Largest picture in pixels, checked before it is decoded."""
    max_audio_s: float = Field(default=1800.0, gt=0)
    """Longest recording, in seconds."""
    video_encoder: Literal["libx264", "h264_nvenc"] = "libx264"
    """H.264 encoder; NVENC falls back to libx264 where it is missing."""
    video_crf: int = Field(default=18, ge=0, le=51)
    """Constant quality of the picture: lower is better and larger."""
    mark: bool = True
    """Write into every video, in machine-readable form, that it was generated (docs/marking.md)."""
    fonts_dir: Path | None = None
    """A folder of fonts for burned captions, searched before those of the system (docs/captions.md)."""
    max_retries: int = Field(default=3, ge=0, le=3)
    """How often a job with `retries_below` renders again, at most (docs/quality-check.md)."""
    signing_file: Path | None = None
    """PEM file with the key and certificates that sign videos; unset, this installation makes one of its own."""

    worker_silence_s: float = Field(default=120, ge=1)
    """A worker process that has sent no message for so many seconds is killed and restarted."""

    def for_workers(self) -> "RenderSettings":
        """A copy of these settings without the server's own fields (tokens, secrets, addresses)."""
        return RenderSettings.model_validate({name: getattr(self, name) for name in RenderSettings.model_fields})


class _Listening(BaseSettings):
    """The addresses to listen on, and the tokens of callers."""

    model_config = SettingsConfigDict(
        env_prefix="LIPSYNC_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    host: str = "127.0.0.1"
    """Address to listen on. Anything beyond loopback needs a token; one is made and printed when none is set."""
    port: int = Field(default=5000, ge=0, le=65535, validation_alias=_env("port", "PORT"))
    """Port to listen on. 0 picks a free one."""
    port_health: int | None = Field(default=None, ge=0, le=65535, validation_alias=_env("port_health", "PORT_HEALTH"))
    """A second port that serves only /ping, /healthz and /readyz (RunPod load balancing)."""
    tokens: Annotated[list[SecretStr], NoDecode] = Field(
        default=[], validation_alias=_env("tokens", "LIPSYNC_TOKEN", "API_TOKEN")
    )
    """Accepted bearer tokens, separated by commas. `token` is the owner's and sees every job; `name:token` sees only
    the jobs of that name."""
    public_url: str = ""
    """The public address of this server behind a tunnel or proxy."""
    tunnel: str = ""
    """`quick` or a Cloudflare tunnel token: starts cloudflared and shows the public address."""


class Settings(RenderSettings, _Listening):
    """Settings of one server or CLI run. A field is a CLI flag and, with LIPSYNC_ before it, a variable."""

    # Weights and loading
    manifest: Path | None = None
    """Path of a list of weights to use instead of the shipped weights/manifest.json, for own files or an own mirror."""
    preview_while_loading: bool = True
    """Serve the preview engine to callers who asked for `auto` while weights are downloading."""

    # Workers
    executor: Literal["process", "ray"] = "process"
    """Where engines run: in child processes, or in the actors of a Ray cluster."""
    ray_address: str = "auto"
    """Address of the Ray cluster for `--executor ray`; `auto` is the one that this machine is part of."""
    no_machine_timeout_s: float = Field(default=1800, ge=0)
    """With `--executor ray`: a job fails after so many seconds in which no machine of the cluster could run it; 0 waits
    for ever."""
    cpus_per_worker: int = Field(default=4, ge=1, le=1024)
    """CPU cores of one worker on a machine of a Ray cluster that has no GPU."""
    workers: int = Field(default=1, ge=1, le=64)
    """Number of worker processes on this machine; use one per GPU."""
    load_timeout_s: float = Field(default=1800, gt=0)
    """A worker process that loads an engine or renders without progress for so many seconds is killed and restarted."""

    # Limits
    max_image_bytes: int = Field(default=32 * MIB, ge=1024)
    """Largest picture (or picture video) accepted, in bytes."""
    max_audio_bytes: int = Field(default=512 * MIB, ge=1024)
    """Largest recording accepted, in bytes."""
    min_audio_s: float = Field(default=0.2, gt=0)
    """Shortest recording, in seconds."""
    max_queue: int = Field(default=100, ge=0)
    """Number of jobs that may wait; further requests are answered 429 with Retry-After."""
    max_uploads: int = Field(default=16, ge=1)
    """Number of uploads received at the same time; further requests are answered 429."""
    job_timeout_s: float = Field(default=6 * 3600, gt=0)
    """Longest time one job may run."""
    shutdown_grace_s: float = Field(default=5.0, ge=0)
    """Seconds that running jobs get to finish when the server stops; then they return to the queue. The server ends at
    most 20 s later, also when a disk does not answer."""
    sync_timeout_s: float = Field(default=0, ge=0)
    """POST /lipsync answers 202 with a job link after this many seconds; 0 waits to the end."""

    # Keeping
    result_ttl_s: float = Field(default=86400, gt=0, validation_alias=_env("result_ttl_s", "LIPSYNC_RESULT_TTL"))
    """Finished videos are kept at most this long, in seconds."""
    collected_grace_s: float = Field(default=3600, ge=0)
    """A collected video is kept this much longer, in seconds."""
    min_free_disk_bytes: int = Field(default=1024 * MIB, ge=0)
    """Jobs are refused with 507 when less disk space, in bytes, is free."""
    store: str = ""
    """Copy finished videos to a folder or `s3://bucket/prefix` before a job counts as succeeded."""
    store_endpoint: str = ""
    """Endpoint URL of an S3-compatible store (R2, B2, MinIO)."""

    # Network
    allow_private_urls: bool = False
    """Allow image_url, audio_url and callbacks to reach private addresses."""
    webhook_secret: SecretStr | None = None
    """Key that signs callbacks (HMAC-SHA256); when unset, a key is made and kept in the data folder."""
    cors_origins: Annotated[list[str], NoDecode] = []
    """Web origins that may call the API from a browser, separated by commas."""

    # Money
    price_per_hour: float | None = Field(default=None, ge=0)
    """Price of this machine per hour; when set, each job reports its cost."""
    currency: str = "USD"
    """Currency of price_per_hour."""
    idle_stop: float = Field(default=0, ge=0)
    """Stop this machine after so many idle minutes; 0 never stops it."""
    idle_stop_uncollected: float = Field(default=120, ge=0)
    """A finished video that was not fetched keeps this machine running for at most so many minutes."""
    idle_stop_command: str = ""
    """Command that stops this machine, where the provider is not recognised."""

    # Logs
    log_format: Literal["auto", "json", "text"] = "auto"
    """Format of log lines; `auto` writes text to a terminal and JSON elsewhere."""

    @field_validator("tokens", "cors_origins", mode="before")
    @classmethod
    def _lists_from_text(cls, value: object) -> object:
        return _split_commas(value)
