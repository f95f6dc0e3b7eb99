"""The wire format: pydantic models of every request and answer. openapi.py generates the OpenAPI document from them.

Fields are added, never renamed or removed, because callers depend on them. Times are RFC 3339 in UTC; links are
relative references, so that they work behind a path prefix or a tunnel.
"""

from datetime import datetime
from typing import Annotated, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, StringConstraints

from lipsync_server.engines.ask import Ask
from lipsync_server.engines.registry import ENGINES
from lipsync_server.jobs.database.webhooks import EVENTS, Event
from lipsync_server.workers.base import LoadStage, WorkerState

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Stage = Literal["queued", "load", "preprocess", "generate", "encode", "check", "store", "done"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class JobOptions(Ask):
    """Options of a job. Multipart requests send them as form fields of the same names.

    `options` holds options of one engine only; GET /v1/engines has their JSON schema.
    """

    engine: str = Field(
        default="auto",
        max_length=64,
        description="Engine that renders; auto chooses the best engine that can run here.",
        json_schema_extra={"enum": list(ENGINES.names)},
    )
    file_name: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        default=None, description="Name of the video when downloaded; `<image name>-lipsync.mp4` unless given."
    )
    callback_url: HttpUrl | None = Field(
        default=None, description="Address that gets a signed POST when the job has ended."
    )

    @property
    def ask(self) -> Ask:
        """The prompt, preset and options as one value for the engine."""
        return Ask.model_validate({name: getattr(self, name) for name in Ask.model_fields})


class JobRequest(JobOptions):
    """POST /v1/jobs as JSON: the inputs are URLs."""

    image_url: HttpUrl
    audio_url: HttpUrl | None = Field(default=None, description="The recording. Leave it out where text is given.")
    second_audio_url: HttpUrl | None = None


FILE_FIELDS = ("image", "audio", "second_audio")
"""The files of a job; each is sent as NAME, or fetched from the address in NAME_url."""
JOB_FIELDS = (*FILE_FIELDS, *(f"{name}_url" for name in FILE_FIELDS), *JobOptions.model_fields)
"""Every field of a job's form, in the order in which messages list them."""


class Progress(_Model):
    stage: Stage
    fraction: float = Field(ge=0, le=1, description="Progress of the whole job, from 0 to 1.")
    note: str = ""
    expected_finish: datetime | None = None


class QualityFinding(_Model):
    """One thing that a person would notice."""

    name: str = Field(description="A stable word for programs, such as lag, black or face_lost.")
    from_s: float
    to_s: float
    sentence: str


class Quality(_Model):
    """The result of the check of a finished video."""

    score: float | None = Field(
        ge=0, le=1, description="0 (unusable) to 1; null where the check cannot judge, and a finding then says why."
    )
    findings: list[QualityFinding]
    mouth_r: float | None = Field(description="Correlation of the mouth with the opening that the sound suggests.")
    lag_ms: float | None = Field(description="Positive for a mouth that comes after the sound.")
    closures: float | None = Field(description="Share of the expected closures of the lips that are seen.")
    face_share: float = Field(description="Share of the frames with a face.")
    cost_s: float = Field(description="Seconds that the check took.")


class RenderAttempt(_Model):
    seed: int
    score: float | None


class Result(_Model):
    width: int
    height: int
    fps: float
    duration_s: float
    n_frames: int
    size_bytes: int
    sha256: str
    render_s: float = Field(description="Seconds of work from start to finished file.")
    seconds_per_second: float = Field(description="Seconds of work per second of video.")
    seed: int
    caption_language: str | None = Field(default=None, description="Language of the captions; null without captions.")
    quality: Quality | None = Field(default=None, description="The check of the video; null where it was not checked.")
    voice: str | None = Field(default=None, description="Who spoke the text; null with a recording.")
    unchecked: str | None = Field(default=None, description="Why the video was not checked.")
    attempts: list[RenderAttempt] = Field(
        default=[], description="With retries_below: every attempt in order. `seed` of the result is the kept one's."
    )
    warnings: list[str] = []


class Timings(_Model):
    """Seconds spent in each stage so far."""

    queued_s: float = 0
    load_s: float = 0
    preprocess_s: float = 0
    generate_s: float = 0
    encode_s: float = 0
    check_s: float = 0
    store_s: float = 0


class Cost(_Model):
    worker_seconds: float
    price_per_hour: float
    amount: float
    currency: str


class JobError(_Model):
    code: str
    title: str
    detail: str


class JobLinks(_Model):
    """Addresses from the root of the server, for example /v1/jobs/ID."""

    self: str
    events: str
    video: str | None = None
    collected: str | None = None
    captions_srt: str | None = Field(default=None, description="The captions as a SubRip file.")
    captions_vtt: str | None = Field(default=None, description="The captions as WebVTT, with the time of each word.")
    sheet: str | None = Field(default=None, description="The contact sheet of a checked video, a JPEG.")
    speech: str | None = Field(default=None, description="The sound that was made from the text, a WAV file.")
    poster: str | None = Field(default=None, description="The first frame as a JPEG picture.")
    preview_webp: str | None = Field(default=None, description="Up to 4 s without sound, in a loop, below 3 MB.")
    preview_gif: str | None = Field(default=None, description="The same as a GIF.")
    stored: str | None = Field(default=None, description="Address of the copy in LIPSYNC_STORE, if there is one.")


class Job(_Model):
    id: str
    state: JobState
    owner: str = Field(default="", description="The name of the token that made the job.")
    engine: str = Field(description="The engine that renders the job; until it starts, the requested engine.")
    prompt: str
    image_name: str
    audio_name: str
    file_name: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    collected_at: datetime | None = None
    expires_at: datetime | None = Field(default=None, description="When the finished video is deleted.")
    queue_position: int | None = Field(default=None, description="0 is next; null once started.")
    attempts: int = 0
    progress: Progress
    timings: Timings = Timings()
    result: Result | None = None
    cost: Cost | None = None
    error: JobError | None = None
    links: JobLinks


class VideoLink(_Model):
    """A link that shows one video without the token until it expires."""

    url: str = Field(description="The whole address, for a browser, a mail or a chat.")
    path: str = Field(description="The same address from the root of the server.")
    is_public: bool = Field(
        description="Whether url begins with the server's public address (LIPSYNC_PUBLIC_URL, a tunnel's, the "
        "provider's). If not, url begins with the address of this request."
    )
    expires_at: datetime


class JobList(_Model):
    jobs: list[Job]
    next: str | None = Field(default=None, description="Relative reference of the next page.")


class Limits(_Model):
    max_image_bytes: int
    max_audio_bytes: int
    max_image_pixels: int
    min_audio_s: float
    max_audio_s: float
    max_queue: int


class EngineStatus(_Model):
    name: str
    title: str
    available: bool
    reason: str
    device: str
    presets: list[str]
    resolutions: list[str]
    max_people: int
    options_schema: dict[str, object] = Field(description="JSON schema of `options` for this engine.")


class WorkerStatus(_Model):
    node: str
    engine: str
    state: WorkerState
    job_id: str | None = None
    reason: str = Field(default="", description="Why the worker accepts no job; empty when it does.")
    version: str = Field(default="", description="The lipsync-server version in the worker's process.")


class Engines(_Model):
    """Engines, limits and defaults of this server."""

    default: str
    default_reason: str
    engines: list[EngineStatus]
    workers: list[WorkerStatus]
    limits: Limits
    defaults: dict[str, object]
    queue_length: int
    public_url: str | None = None
    idle_stop_in_s: float | None = Field(default=None, description="Seconds until this machine stops itself.")
    version: str


class StartCost(_Model):
    """The cost of one start of this machine beside its work, computed from its price per hour."""

    amount: float
    currency: str
    minutes_until_ready: float = Field(description="An assumption; a first start also downloads and takes longer.")
    minutes_until_stop: float = Field(description="The minutes of LIPSYNC_IDLE_STOP.")


class IdleStop(_Model):
    """The idle stop of the server's machine."""

    enabled: bool = Field(description="Whether this machine stops itself (LIPSYNC_IDLE_STOP).")
    after_minutes: float = Field(description="Idle minutes after which the machine stops.")
    in_s: float | None = Field(
        description="Seconds until the stop; null while a job runs, a video is not collected, or no stop is set."
    )
    kept_s: float = Field(description="Seconds for which somebody keeps the machine, idle or not.")
    price_per_hour: float | None
    start_cost: StartCost | None = Field(description="Null where the price per hour is not known.")


class KeepRequest(_Model):
    """The least time for which the machine has to stay."""

    minutes: float = Field(default=30, ge=0, le=720, description="From now on; 0 ends an earlier request.")


class DoctorFinding(_Model):
    """One check. `note`: it works, and could be better. `problem`: something does not work until it is changed."""

    name: str
    state: Literal["ok", "note", "problem"]
    detail: str
    advice: str = Field(description="The remedy in one sentence; empty if there is none.")


class Doctor(_Model):
    """The findings of `lipsync doctor` on the server's machine."""

    engine: str = Field(description="The engine that renders where a job names none; empty where no engine can run.")
    findings: list[DoctorFinding]


class Readiness(_Model):
    """GET /readyz: 200 when a job would start now, 503 while something is still loading."""

    ready: bool
    stage: LoadStage
    fraction: float
    detail: str
    bytes_done: int | None = None
    bytes_total: int | None = None
    seconds_left: float | None = None


class Health(_Model):
    status: Literal["ok"] = "ok"


class Me(_Model):
    """GET /v1/me: a cheap route to test a token."""

    name: str
    version: str
    engine: str


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    request_id: str | None = None


class Callback(_Model):
    """Body of a callback. Header `Lipsync-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">`."""

    event: Event
    job: Job


class WebhookRequest(_Model):
    """POST /v1/webhooks."""

    url: HttpUrl = Field(description="Address that gets the POST.")
    events: list[Event] = Field(
        default=list(EVENTS), min_length=1, max_length=len(EVENTS), description="Ends of jobs to report."
    )


class WebhookFields(TypedDict):
    id: str
    owner: str
    url: str
    events: list[Event]
    created_at: datetime


class Webhook(_Model):
    id: str
    owner: str
    url: str
    events: list[Event]
    created_at: datetime


class NewWebhook(Webhook):
    secret: str = Field(description="Key of the signatures of this webhook (HMAC-SHA256).")


class Delivery(_Model):
    job_id: str
    waits: bool = Field(description="Whether the POST about this job has not been answered with success yet.")


class WebhookList(_Model):
    webhooks: list[Webhook]
