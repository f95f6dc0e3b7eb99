"""render(): exact frames, clear errors of a faulty engine, cancelling, and resuming after a crash at any moment."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from kept_decoders import kept_decoders
from lipsync_server import errors
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import EngineOptions, Frames, RenderContext, RenderRequest, ResumePoint
from lipsync_server.settings import Settings
from lipsync_server.workers.rendering.at_work import reported_at_work
from lipsync_server.workers.rendering.encoding import BackgroundEncoder
from lipsync_server.workers.rendering.inputs import release_pages
from lipsync_server.workers.rendering.measure import STAGES, ProgressScale
from lipsync_server.workers.rendering.render import render
from lipsync_server.workers.rendering.resume_point import load_resume_points, save_resume_point
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask
from material import bar_numbers, expected_bars, make_task
from stand_in.engine import BarsEngine
from stand_in.options import Options


def run(task: RenderTask, events: list[ProgressEvent] | None = None) -> RenderOutcome:
    report = (lambda event: None) if events is None else events.append
    return render(
        BarsEngine(task.scratch),
        task,
        report,
        lambda: False,
        Settings(),
        options_model=Options,
        decoders=kept_decoders(),
    )


@pytest.mark.parametrize(("duration_s", "n_frames"), [(0.2, 5), (1.0, 25), (1.0 + 1 / 16_000, 26), (2.019, 51)])
def test_the_video_has_exactly_the_frames_that_cover_the_sound(
    tmp_path: Path, duration_s: float, n_frames: int
) -> None:
    task = make_task(tmp_path, duration_s=duration_s)
    outcome = run(task)
    assert bar_numbers(task.output) == expected_bars(n_frames)
    assert (outcome.n_frames, outcome.width, outcome.height, outcome.fps) == (n_frames, 64, 48, 25.0)
    assert outcome.size_bytes == task.output.stat().st_size


def test_progress_of_the_whole_never_falls_and_ends_at_one(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    run(make_task(tmp_path), events)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    seen = {event.stage for event in events}
    assert [stage for stage in STAGES if stage in seen] == [stage for stage in STAGES if stage != "check"]


def test_progress_stays_monotonic_when_an_engine_counts_backwards() -> None:
    scale = ProgressScale()
    fractions = [scale.event("generate", done, 10, "").fraction for done in (5, 2, 12, 0)]
    assert fractions == sorted(fractions)
    assert max(fractions) <= 1


def test_seconds_of_the_stages_add_up_to_the_whole(tmp_path: Path) -> None:
    outcome = run(make_task(tmp_path, seconds_per_frame=0.005))
    assert set(outcome.stage_s) == set(STAGES)
    assert sum(outcome.stage_s.values()) == pytest.approx(outcome.render_s, abs=0.05)
    assert outcome.stage_s["generate"] > 0.15
    assert outcome.peak_rss_bytes > 20_000_000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"extra_frames": -1}, "made 49 frames where 50 were due"),
        ({"extra_frames": 1, "batch": 7}, "made 51 frames or more where 50 were due"),
        ({"width": 63}, "63x48"),
        ({"height": 47}, "64x47"),
        ({"grow_at": 20}, "changed the size of its frames to 66x48 at frame 20"),
        ({"fail_at": 10}, "RuntimeError: a tensor went missing"),
    ],
)
def test_a_faulty_engine_is_a_clear_internal_error_and_leaves_no_video(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    task = make_task(tmp_path, **options)
    with pytest.raises(errors.LipsyncError) as raised:
        run(task)
    assert says in raised.value.detail
    assert (raised.value.code, raised.value.status) == ("internal", 500)
    assert not task.output.exists()
    assert list(task.output.parent.glob("*.mp4*")) == []


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({"colour": "red"}, "colour", "no option 'colour'"),
        ({"width": 9999}, "width", "less than or equal to 512"),
        ({"seed": "tomorrow"}, "seed", "integer"),
        ({"face_box": [1, 2, 3]}, "face_box.3", "is missing"),
    ],
)
def test_a_bad_option_names_the_field(tmp_path: Path, options: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(errors.InvalidInput) as raised:
        run(make_task(tmp_path, **options))
    assert raised.value.field == field
    assert says in raised.value.detail


def test_a_picture_that_cannot_be_read_is_the_callers_error(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    task.image.write_text("not a picture")
    with pytest.raises(errors.LipsyncError) as raised:
        run(task)
    assert raised.value.status in (415, 422)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_cancelled_render_stops_within_a_batch_and_leaves_no_video(tmp_path: Path, deaf: bool) -> None:
    task = make_task(tmp_path, batch=5, deaf=deaf)
    events: list[ProgressEvent] = []

    def cancelled() -> bool:
        return any(event.stage == "generate" and event.done >= 10 for event in events)

    with pytest.raises(errors.Cancelled):
        render(
            BarsEngine(tmp_path),
            task,
            events.append,
            cancelled,
            Settings(),
            options_model=Options,
            decoders=kept_decoders(),
        )
    assert max(event.done for event in events) <= 15
    assert not task.output.exists()
    assert "encoder" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("fail_at", [3, 10, 19, 20, 21, 29, 30, 45, 49])
def test_a_second_attempt_resumes_at_the_last_resume_point(tmp_path: Path, fail_at: int) -> None:
    task = make_task(tmp_path, batch=5, save_every=10, fail_at=fail_at)
    with pytest.raises(errors.LipsyncError, match="tensor went missing"):
        run(task)
    outcome = run(task)
    saved = fail_at // 5 * 5 // 10 * 10
    assert outcome.warnings == ((f"resumed at {saved}",) if saved else ())
    assert bar_numbers(task.output) == expected_bars(50)


def interrupted(tmp_path: Path) -> RenderTask:
    """A render that stopped before frame 45 with resume points at 30 and 40; the next render continues from there."""
    task = make_task(tmp_path, batch=5, save_every=10, fail_at=45)
    with pytest.raises(errors.LipsyncError, match="tensor went missing"):
        run(task)
    return task


@pytest.mark.parametrize("keep_bytes", [0, 10, 200, -1])
def test_a_torn_resume_point_falls_back_to_the_one_before(tmp_path: Path, keep_bytes: int) -> None:
    task = interrupted(tmp_path)
    newest = max(task.scratch.glob("checkpoint-*.npz"))
    newest.write_bytes(newest.read_bytes()[:keep_bytes])
    assert run(task).warnings == ("resumed at 30",)
    assert bar_numbers(task.output) == expected_bars(50)


def test_frames_stored_after_the_last_resume_point_are_made_again(tmp_path: Path) -> None:
    task = interrupted(tmp_path)
    # The crash happened after the segment was written and before its resume point was.
    max(task.scratch.glob("checkpoint-*.npz")).unlink()
    assert run(task).warnings == ("resumed at 30",)
    assert bar_numbers(task.output) == expected_bars(50)


def test_a_resume_point_whose_frames_are_missing_is_passed_over(tmp_path: Path) -> None:
    task = interrupted(tmp_path)
    save_resume_point(task.scratch, ResumePoint(45, {"next_frame": 45}), (task.scratch / "render.txt").read_text())
    assert run(task).warnings == ("resumed at 40",)
    assert bar_numbers(task.output) == expected_bars(50)


def test_without_any_readable_resume_point_it_starts_afresh(tmp_path: Path) -> None:
    task = interrupted(tmp_path)
    for path in task.scratch.glob("checkpoint-*.npz"):
        path.write_bytes(b"")
    assert run(task).warnings == ()
    assert bar_numbers(task.output) == expected_bars(50)


def test_leftovers_of_another_render_are_not_used(tmp_path: Path) -> None:
    task = interrupted(tmp_path)
    assert run(replace(task, ask=Ask(prompt="someone else", options=task.ask.options))).warnings == ()
    assert bar_numbers(task.output) == expected_bars(50)


def test_a_crash_while_joining_does_not_render_again(tmp_path: Path) -> None:
    task = make_task(tmp_path, batch=5, save_every=10)
    first = run(task)
    task.output.unlink()
    events: list[ProgressEvent] = []
    again = run(task, events)
    assert again.n_frames == first.n_frames
    assert bar_numbers(task.output) == expected_bars(first.n_frames)
    assert "generate" not in {event.stage for event in events}


def test_a_resume_point_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "latents": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "scalar_array": np.array(3.5),
        "step": 7,
        "big": 2**62,
        "scale": 0.1,
        "note": "größer\0",
        "on": True,
        "file": "a name that numpy uses itself",
    }
    save_resume_point(tmp_path, ResumePoint(12, state), "me")
    [loaded] = load_resume_points(tmp_path, "me")
    assert loaded.n_frames == 12
    assert set(loaded.state) == set(state)
    for key, value in state.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(loaded.state[key], value)
            assert np.asarray(loaded.state[key]).dtype == value.dtype
        else:
            assert loaded.state[key] == value
            assert type(loaded.state[key]) is type(value)
    assert list(load_resume_points(tmp_path, "someone else")) == []


def test_a_state_that_would_need_pickle_is_refused(tmp_path: Path) -> None:
    for value in (np.array([object()]), json, None, [1, 2]):
        with pytest.raises(TypeError, match="'thing'"):
            save_resume_point(tmp_path, ResumePoint(1, {"thing": cast(Any, value)}), "me")
    assert list(tmp_path.iterdir()) == []


class _StuckSink:
    """An encoder that blocks until the test releases it."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.n_frames = 0

    def write(self, frames: Frames) -> None:
        assert self.let_go.wait(30)
        self.n_frames += len(frames)


def test_a_slow_encoder_holds_the_engine_back_before_memory_fills() -> None:
    sink = _StuckSink()
    encoder = BackgroundEncoder(sink)
    batch = np.zeros((40, 512, 1024, 3), dtype=np.uint8)  # 60 MiB
    n_put = 0

    def produce() -> None:
        nonlocal n_put
        for _ in range(12):
            encoder.put(batch)
            n_put += 1

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join(0.3)
    assert producer.is_alive()
    assert 2 <= n_put <= 5
    sink.let_go.set()
    producer.join(30)
    assert encoder.drain()
    encoder.close()
    assert sink.n_frames == 480


def test_an_engine_hands_over_a_window_of_frames_before_the_first_is_encoded() -> None:
    """InfiniteTalk decodes 72 frames of 640 x 640 faster than H.264 encodes them, and must not wait for that."""
    sink = _StuckSink()
    encoder = BackgroundEncoder(sink)

    def produce() -> None:
        for _ in range(18):
            encoder.put(np.zeros((4, 640, 640, 3), dtype=np.uint8))

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join(30)
    assert not producer.is_alive()
    assert sink.n_frames == 0
    sink.let_go.set()
    assert encoder.drain()
    encoder.close()
    assert sink.n_frames == 72


def test_an_encoder_that_fails_ends_the_render_with_its_error() -> None:
    class Broken:
        def write(self, frames: Frames) -> None:
            raise OSError(28, "No space left on device")

    encoder = BackgroundEncoder(Broken())
    encoder.put(np.zeros((1, 2, 2, 3), dtype=np.uint8))
    with pytest.raises(OSError, match="No space"):
        encoder.drain()
    with pytest.raises(OSError, match="No space"):
        encoder.put(np.zeros((1, 2, 2, 3), dtype=np.uint8))
    encoder.close()


class _FullDiskEngine(BarsEngine):
    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        yield np.zeros((1, 4, 4, 3), dtype=np.uint8)
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_reported_as_a_full_disk(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    with pytest.raises(errors.DiskFull):
        render(
            _FullDiskEngine(tmp_path), task, lambda event: None, lambda: False, Settings(), options_model=EngineOptions
        )


def test_the_pages_of_a_recording_leave_memory_after_their_use(tmp_path: Path) -> None:
    def mapped_bytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))

    path = tmp_path / "speech.f32"
    np.ones(10_000_000, "<f4").tofile(path)
    speech = np.memmap(path, dtype="<f4", mode="r")
    before = mapped_bytes()
    assert speech.sum() == 10_000_000
    assert mapped_bytes() - before > 35_000_000
    release_pages(speech)
    assert mapped_bytes() - before < 5_000_000
    assert speech.sum() == 10_000_000


def test_work_with_a_limit_of_its_own_reports_progress_that_changes() -> None:
    """The server ends a render whose progress does not change, heartbeats aside."""
    notes: list[str] = []
    enough = threading.Event()

    def report(note: str) -> None:
        notes.append(note)
        if len(notes) == 2:
            enough.set()

    with reported_at_work(report, interval_s=1.1):
        assert enough.wait(60)
    assert notes[0] != notes[1]
