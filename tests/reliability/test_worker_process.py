"""Worker processes: really killed, really restarted, and never outliving the server."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from lipsync_server import errors
from lipsync_server.workers.base import LoadState
from lipsync_server.workers.process.child import EXIT_POISONED
from material import bar_numbers, expected_bars, make_task
from worker_kit import DEADLINE_S, idle, render, running, start_render, until, workers_of


async def test_a_task_is_rendered_in_a_child_with_throttled_progress(tmp_path: Path) -> None:
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        task = make_task(tmp_path, seconds_per_frame=0.02, batch=1)
        job, started = await start_render(worker, task)
        outcome = await job
        assert bar_numbers(task.output) == expected_bars(50)
        assert outcome.render_s > 1
        # 50 frames are rendered in a little over a second, so there are far fewer reports. Their progress never falls.
        assert 3 <= len(started.events) <= 10 * outcome.render_s + 8
        fractions = [event.fraction for event in started.events]
        assert fractions == sorted(fractions)


async def test_the_engine_stays_loaded_and_is_ready_before_the_first_task(tmp_path: Path) -> None:
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        assert executor.load_state() == LoadState(True, "ready", 1.0, "bars is loaded.")
        [before] = workers_of(os.getpid())
        for number in range(2):
            await render(worker, make_task(tmp_path, duration_s=0.2, task_id=f"task-{number}"))
            executor.release(worker)
            worker = await idle(executor)
        assert workers_of(os.getpid()) == [before]


async def test_a_reserved_worker_is_not_given_twice(tmp_path: Path) -> None:
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        waiting = asyncio.create_task(executor.next_idle())
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        executor.release(worker)
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting is worker


@pytest.mark.parametrize("save_every", [0, 10])
async def test_kill_9_mid_render_fails_only_that_task_and_a_second_try_resumes(tmp_path: Path, save_every: int) -> None:
    async with running(tmp_path, n_workers=2) as executor:
        first, second = await idle(executor), await idle(executor)
        assert first is not second
        killed_task = make_task(tmp_path, task_id="killed", die_at=32, save_every=save_every, batch=1)
        spared_task = make_task(tmp_path, task_id="spared", seconds_per_frame=0.03)
        spared, _ = await start_render(second, spared_task)
        with pytest.raises(errors.WorkerCrashed, match="SIGKILL"):
            await render(first, killed_task)
        assert not killed_task.output.exists()
        executor.release(first)
        again = await idle(executor)
        outcome = await render(again, killed_task)
        await spared
        assert bar_numbers(killed_task.output) == expected_bars(50)
        assert bar_numbers(spared_task.output) == expected_bars(50)
        # The last resume point may have missed the disk before the kill. The one before it must be there.
        allowed = {("resumed at 20",), ("resumed at 30",)} if save_every else {()}
        assert outcome.warnings in allowed


async def test_a_worker_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        job, _ = await start_render(worker, make_task(tmp_path, seconds_per_frame=0.05))
        [process] = workers_of(os.getpid())
        process.send_signal(signal.SIGKILL)
        with pytest.raises(errors.WorkerCrashed):
            async with asyncio.timeout(DEADLINE_S):
                await job
        executor.release(worker)
        outcome = await render(await idle(executor), make_task(tmp_path, task_id="next", duration_s=0.2))
        assert outcome.n_frames == 5
        assert workers_of(os.getpid()) != [process]


@pytest.mark.timing
async def test_cancel_stops_a_render_at_once_and_the_worker_continues(tmp_path: Path) -> None:
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        [before] = workers_of(os.getpid())
        task = make_task(tmp_path, seconds_per_frame=0.02, duration_s=10, batch=2)
        job, _ = await start_render(worker, task)
        asked = time.monotonic()
        worker.cancel("another task")
        worker.cancel(task.task_id)
        with pytest.raises(errors.Cancelled):
            await job
        assert time.monotonic() - asked < 1.0
        assert not task.output.exists()
        executor.release(worker)
        await render(await idle(executor), make_task(tmp_path, task_id="next", duration_s=0.2))
        assert workers_of(os.getpid()) == [before]


async def test_a_render_that_is_no_longer_awaited_is_stopped(tmp_path: Path) -> None:
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        job, _ = await start_render(worker, make_task(tmp_path, seconds_per_frame=0.02, duration_s=10, batch=2))
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        executor.release(worker)
        assert (await render(await idle(executor), make_task(tmp_path, task_id="next", duration_s=0.2))).n_frames == 5


async def test_a_lipsync_error_crosses_the_pipe_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        with pytest.raises(errors.InvalidInput) as raised:
            await render(worker, make_task(tmp_path, width=10_000))
        assert raised.value.field == "width"
        executor.release(worker)
        assert (await render(await idle(executor), make_task(tmp_path, task_id="next"))).n_frames == 50


async def test_any_other_error_is_a_sentence_and_its_trace_is_in_the_servers_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as executor:
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(errors.LipsyncError, match="RuntimeError: a tensor went missing") as raised,
        ):
            await render(await idle(executor), make_task(tmp_path, fail_at=10))
        assert "Traceback" not in raised.value.detail
        await until(lambda: any("Traceback" in (record.exc_text or "") for record in caplog.records))


async def test_a_worker_that_lost_its_gpu_reports_it_and_a_fresh_one_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "load").write_text("lose the GPU")
    async with running(tmp_path) as executor:
        await until(lambda: f"worker process-0 died: it ended with status {EXIT_POISONED}" in caplog.text)
        assert "illegal memory access" in executor.load_state().detail
        (tmp_path / "load").unlink()
        task = make_task(tmp_path, duration_s=0.2)
        await render(await idle(executor), task)
        assert bar_numbers(task.output) == expected_bars(5)


async def test_a_worker_that_is_stopped_while_it_renders_or_waits_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, worker_silence_s=6) as executor:
        worker = await idle(executor)
        [first] = workers_of(os.getpid())
        job, _ = await start_render(worker, make_task(tmp_path, seconds_per_frame=0.05, duration_s=10))
        first.suspend()
        with pytest.raises(errors.WorkerCrashed, match="sent no message"):
            async with asyncio.timeout(DEADLINE_S):
                await job
        executor.release(worker)
        worker = await idle(executor)
        [second] = workers_of(os.getpid())
        second.suspend()
        executor.release(worker)
        await until(lambda: not second.is_running())
        assert (await render(await idle(executor), make_task(tmp_path, task_id="next", duration_s=0.2))).n_frames == 5


@pytest.mark.parametrize(
    ("channel", "reason"),
    [
        ("garbage", "sent bytes that are no message"),
        ("no message", "a dict is no message"),
        ("closed", "closed its connection"),
    ],
)
async def test_a_worker_that_spoils_its_connection_is_replaced_at_once(
    tmp_path: Path, channel: str, reason: str
) -> None:
    """The limit of silence, 120 s, is longer than this test may take."""
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        [first] = workers_of(os.getpid())
        with pytest.raises(errors.WorkerCrashed, match=reason):
            await render(worker, make_task(tmp_path, channel=channel, seconds_per_frame=0.05))
        executor.release(worker)
        assert (await render(await idle(executor), make_task(tmp_path, task_id="next", duration_s=0.2))).n_frames == 5
        assert not first.is_running()


async def test_a_stopped_worker_that_gets_a_long_script_blocks_nothing(tmp_path: Path) -> None:
    """A script of 60,000 characters is larger than the buffer of the pipe, which a stopped process does not empty."""
    async with running(tmp_path, worker_silence_s=6) as executor:
        worker = await idle(executor)
        [stuck] = workers_of(os.getpid())
        stuck.suspend()
        task = make_task(tmp_path, duration_s=0.2)
        long = replace(task, ask=task.ask.model_copy(update={"script": "\N{GRINNING FACE}" * 60_000}))
        with pytest.raises(errors.WorkerCrashed, match="sent no message"):
            await render(worker, long)
        executor.release(worker)
        assert (await render(await idle(executor), task)).n_frames == 5


async def test_a_render_without_progress_ends_with_the_reason_although_heartbeats_go_on(tmp_path: Path) -> None:
    """As on a GPU that hangs, or while an engine that is loaded for this job waits for a stuck volume."""
    async with running(tmp_path, worker_silence_s=6, load_timeout_s=3) as executor:
        worker = await idle(executor)
        with pytest.raises(errors.WorkerCrashed, match="the render made no progress for 3 s"):
            await render(worker, make_task(tmp_path, seconds_per_frame=3600))
        executor.release(worker)
        # Progress at intervals that are shorter than the limit, for longer than the limit.
        task = make_task(tmp_path, task_id="next", seconds_per_frame=0.5, batch=1, duration_s=0.4)
        assert (await render(await idle(executor), task)).n_frames == 10


async def test_no_secret_is_in_a_workers_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPSYNC_WEBHOOK_SECRET", "a-secret-of-the-server")
    monkeypatch.setenv("VAST_API_KEY", "a-secret-of-the-owner")
    async with running(tmp_path) as executor:
        await idle(executor)
        [process] = workers_of(os.getpid())
        assert not [name for name, value in process.environ().items() if "a-secret" in value]


async def test_closing_fails_running_tasks_and_leaves_no_process(tmp_path: Path) -> None:
    async with running(tmp_path, n_workers=2) as executor:
        worker = await idle(executor)
        job, _ = await start_render(worker, make_task(tmp_path, seconds_per_frame=0.05))
        processes = workers_of(os.getpid())
        assert len(processes) == 2
        await executor.close()
        with pytest.raises(errors.WorkerCrashed):
            await job
        assert not any(process.is_running() for process in processes)


async def test_the_child_has_a_lower_priority_and_ignores_the_signals_for_the_server(tmp_path: Path) -> None:
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        [process] = workers_of(os.getpid())
        assert process.nice() > psutil.Process().nice()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert (await render(worker, make_task(tmp_path, duration_s=0.2))).n_frames == 5


_SERVER = """
import asyncio, sys
from pathlib import Path
from lipsync_server.engines.registry import EngineEntry, Registry
from lipsync_server.settings import Settings
from lipsync_server.workers.process.executor import ProcessExecutor
from material import make_task
from stand_in import REGISTRY

async def main(folder):
    executor = ProcessExecutor(Settings(weights_dir=folder, workers=2), REGISTRY)
    await executor.start()
    worker = await executor.next_idle()
    await executor.next_idle()
    say = lambda event: print(event.stage, flush=True)
    if sys.argv[2] == "rendering":
        await worker.render(make_task(folder, duration_s=60, seconds_per_frame=0.05, deaf=True), say)
    print("idle", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("doing", ["idle", "rendering"])
def test_kill_9_of_the_server_ends_its_workers(tmp_path: Path, doing: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(tmp_path), doing], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        wanted = "idle" if doing == "idle" else "generate"
        for line in server.stdout:
            if line.strip() == wanted:
                break
        workers = workers_of(server.pid)
        assert len(workers) == 2
        server.kill()
        server.wait()
        _, alive = psutil.wait_procs(workers, timeout=5)
        assert alive == []
