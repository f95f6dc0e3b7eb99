"""The check inside a render, and retries_below: the best attempt is kept, and nothing that was finished is lost."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
from kept_decoders import kept_decoders
from lipsync_server.check.quality import Quality
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import Report, no_report
from lipsync_server.errors import Cancelled, InvalidInput, LipsyncError
from lipsync_server.library import Lipsync
from lipsync_server.paths import SAMPLES_DIR
from lipsync_server.settings import Settings
from lipsync_server.workers.rendering.checking import why_too_dear
from lipsync_server.workers.rendering.render import render
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask
from material import small_portrait
from takes.engine import TakesEngine
from takes.options import Options

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little less than two seconds of the shipped recording, which the check can judge. A portrait is beside it."""
    samples, rate_hz = soundfile.read(SAMPLES_DIR / "speech.wav")
    samples = samples[rate_hz // 2 : round(2.3 * rate_hz)]
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(path, samples, rate_hz)
    small_portrait(path.parent)
    return path


def task_for(folder: Path, speech: Path, *, ask: Ask | None = None, **options: object) -> RenderTask:
    return RenderTask(
        task_id="task",
        engine="takes",
        image=speech.with_name("portrait.png"),
        audio=speech,
        output=folder / "video.mp4",
        scratch=folder / "scratch",
        ask=(ask or Ask(retries_below=0.6)).model_copy(update={"options": options}),
        sheet=folder / "video.sheet.jpg",
    )


def run(task: RenderTask, events: list[ProgressEvent] | None = None, settings: Settings | None = None) -> RenderOutcome:
    settings = settings or Settings(_env_file=None, mark=False)
    report = (lambda event: None) if events is None else events.append
    return render(
        TakesEngine(settings), task, report, lambda: False, settings, options_model=Options, decoders=kept_decoders()
    )


def quality_of(outcome: RenderOutcome) -> Quality:
    assert outcome.quality is not None
    return outcome.quality


def test_a_bad_attempt_is_rendered_again_with_another_seed_and_the_best_is_kept(tmp_path: Path, speech: Path) -> None:
    events: list[ProgressEvent] = []
    outcome = run(task_for(tmp_path, speech), events)
    assert [attempt.seed for attempt in outcome.attempts] == [42, 43]
    scores = [attempt.score for attempt in outcome.attempts]
    assert scores[0] is not None and scores[0] < 0.6 and scores[1] is not None and scores[1] > 0.8
    assert (outcome.seed, quality_of(outcome).score) == (43, scores[1])
    (said,) = (warning for warning in outcome.warnings if "rendered 2 times" in warning)
    assert "attempt 2 was kept" in said and said.count("with seed 42") == 1
    # The best video, its sheet and nothing else.
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", "video.mp4", "video.sheet.jpg"}
    assert outcome.size_bytes == (tmp_path / "video.mp4").stat().st_size
    assert [event.fraction for event in events] == sorted(event.fraction for event in events)
    assert any("attempt 2 of at most 2" in event.note for event in events)


def test_attempts_end_at_the_number_asked_for_and_the_least_bad_is_kept(tmp_path: Path, speech: Path) -> None:
    task = task_for(tmp_path, speech, ask=Ask(retries_below=0.6, retries=1), good_seed=44)
    outcome = run(task)
    assert [attempt.seed for attempt in outcome.attempts] == [42, 43]
    assert outcome.seed == 43  # it flickers, and the first one is black
    assert any("is below 0.6" in warning for warning in outcome.warnings)


def test_the_owner_may_allow_fewer_retries_than_the_caller_wants(tmp_path: Path, speech: Path) -> None:
    outcome = run(task_for(tmp_path, speech), settings=Settings(_env_file=None, mark=False, max_retries=0))
    assert len(outcome.attempts) == 1
    assert any("LIPSYNC_MAX_RETRIES" in warning for warning in outcome.warnings)


def test_a_retry_that_does_not_fit_into_the_time_limit_is_left_out(tmp_path: Path, speech: Path) -> None:
    outcome = run(replace(task_for(tmp_path, speech), limit_s=0.5))
    assert len(outcome.attempts) == 1
    assert any("time limit of 0 s" in warning or "time limit" in warning for warning in outcome.warnings)


def test_a_good_first_attempt_is_the_only_one(tmp_path: Path, speech: Path) -> None:
    outcome = run(task_for(tmp_path, speech, good_seed=42))
    assert [attempt.seed for attempt in outcome.attempts] == [42]
    assert outcome.warnings == ()


def test_a_retry_that_fails_costs_no_finished_video(tmp_path: Path, speech: Path) -> None:
    outcome = run(task_for(tmp_path, speech, fail_seed=43))
    assert (outcome.seed, len(outcome.attempts)) == (42, 1)
    assert any("Attempt 2 failed" in warning and "tensor" in warning for warning in outcome.warnings)
    assert (tmp_path / "video.mp4").is_file()


def test_a_cancelled_retry_leaves_no_video(tmp_path: Path, speech: Path) -> None:
    events: list[ProgressEvent] = []
    task = task_for(tmp_path, speech)

    def cancelled() -> bool:
        return any(event.fraction > 0.6 for event in events)

    settings = Settings(_env_file=None, mark=False)
    with pytest.raises(Cancelled):
        render(
            TakesEngine(settings),
            task,
            events.append,
            cancelled,
            settings,
            options_model=Options,
            decoders=kept_decoders(),
        )
    assert {path.name for path in tmp_path.iterdir()} <= {"scratch"}


def test_a_kill_in_the_second_attempt_does_not_lose_or_repeat_the_first(tmp_path: Path, speech: Path) -> None:
    task = task_for(tmp_path, speech, die_seed=43, every_try=False)
    assert _run_elsewhere(task) == -9
    first = json.loads((task.scratch / "attempts.json").read_text())
    assert (len(first["finished"]), first["begun"]) == (1, 2)
    assert not task.output.exists()
    events: list[ProgressEvent] = []
    outcome = run(task, events)
    assert [attempt.seed for attempt in outcome.attempts] == [42, 43]
    assert outcome.seed == 43
    assert min(event.fraction for event in events) >= 0.5


def test_a_kill_between_the_attempts_and_the_end_renders_nothing_again(tmp_path: Path, speech: Path) -> None:
    task = task_for(tmp_path, speech)
    before = run(task)
    events: list[ProgressEvent] = []
    assert run(task, events) == before  # the outcome of the finished render was not stored
    assert events == []
    assert before.size_bytes == task.output.stat().st_size


def test_an_attempt_in_which_the_worker_died_is_given_up(tmp_path: Path, speech: Path) -> None:
    task = task_for(tmp_path, speech, die_seed=43)
    assert _run_elsewhere(task) == -9
    outcome = run(replace(task, n_crashes=1))
    assert [attempt.seed for attempt in outcome.attempts] == [42]
    assert any("given up" in warning for warning in outcome.warnings)


class LosesItsGpu(TakesEngine):
    def load(self, report: Report = no_report) -> None:
        super().load(report)
        self.n_loads = getattr(self, "n_loads", 0) + 1
        if self.n_loads == 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_lost_gpu_in_a_retry_sends_the_job_to_a_fresh_process_with_its_first_video(
    tmp_path: Path, speech: Path
) -> None:
    task, settings = task_for(tmp_path, speech), Settings(_env_file=None, mark=False)
    engine = LosesItsGpu(settings)
    engine._preview.load()
    with pytest.raises(LipsyncError, match="lost its GPU") as raised:
        render(
            engine,
            task,
            lambda event: None,
            lambda: False,
            settings,
            options_model=Options,
            decoders=kept_decoders(),
        )
    assert "CUDA error" in str(raised.value.__cause__)  # The worker ends its process when it sees this error.
    outcome = run(replace(task, n_crashes=1))
    assert [attempt.seed for attempt in outcome.attempts] == [42]


def _run_elsewhere(task: RenderTask) -> int:
    """Render `task` in a process of its own; returns its exit status."""
    program = (
        "import pickle, sys; from pathlib import Path; import test_attempts; "
        "test_attempts.run(pickle.loads(Path(sys.argv[1]).read_bytes()))"
    )
    import pickle

    stored = task.output.parent.parent / f"{task.output.parent.name}.task"
    stored.write_bytes(pickle.dumps(task))
    path = f"import sys; sys.path[:0] = [{str(SUPPORT)!r}, {str(Path(__file__).parent)!r}]; "
    return subprocess.run([sys.executable, "-c", path + program, str(stored)], check=False, timeout=120).returncode


def test_the_check_runs_by_itself_only_where_it_is_cheap() -> None:
    assert why_too_dear(10, render_s=600) is None
    assert "check=true" in str(why_too_dear(10, render_s=8))
    # 7 s of work for a second of video: the start of the check is too much of a short render, and not of a long one.
    assert why_too_dear(3, render_s=7 * 3) is not None
    assert why_too_dear(120, render_s=7 * 120) is None


def test_a_video_that_was_not_checked_has_the_reason(tmp_path: Path, speech: Path) -> None:
    outcome = run(task_for(tmp_path, speech, ask=Ask()))
    assert outcome.quality is None and "of the render's time" in outcome.unchecked
    assert not (tmp_path / "video.sheet.jpg").exists()
    off = run(task_for(tmp_path / "off", speech, ask=Ask(check=False)))
    assert off.quality is None and "switched the check off" in off.unchecked


def test_the_preview_is_not_rendered_again_and_gives_the_reason(tmp_path: Path, speech: Path) -> None:
    with Lipsync("preview", mark=False) as engine:
        outcome = engine.render(
            speech.with_name("portrait.png"),
            speech,
            tmp_path / "a.mp4",
            retries_below=0.6,
            sheet=tmp_path / "sheet.jpg",
        )
    assert quality_of(outcome).score is None and outcome.attempts == ()
    assert any("same mouth" in warning for warning in outcome.warnings)
    assert (tmp_path / "sheet.jpg").read_bytes()[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"check": False, "retries_below": 0.6}, "needs the score"),
        ({"retries_below": 1.5}, "less than or equal to 1"),
        ({"retries": 4}, "less than or equal to 3"),
    ],
)
def test_a_check_option_that_is_impossible_is_refused_by_name(
    tmp_path: Path, speech: Path, wishes: dict[str, Any], says: str
) -> None:
    with Lipsync("preview") as engine, pytest.raises(InvalidInput, match=says):
        engine.render(SAMPLES_DIR / "portrait.jpg", speech, tmp_path / "a.mp4", **wishes)
