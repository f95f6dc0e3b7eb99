"""A worker that loads: its progress, an engine that cannot load, a process that dies or hangs before it is ready."""

import importlib
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from freezing_volume import FreezingVolume, why_not
from lipsync_server import errors
from lipsync_server.engines.registry import EngineEntry, Registry
from lipsync_server.settings import Settings
from lipsync_server.workers.process import executor as process_executor
from lipsync_server.workers.process.executor import ProcessExecutor
from lipsync_server.workers.worker import MAX_LOAD_CRASHES
from material import make_task
from worker_kit import idle, render, running, until, workers_of


async def test_load_progress_is_reported_until_the_engine_is_ready(tmp_path: Path) -> None:
    (tmp_path / "load").write_text("slow")
    async with running(tmp_path) as executor:
        await until(lambda: executor.load_state().fraction == 0.5)
        state = executor.load_state()
        assert (state.ready, state.stage) == (False, "loading")
        assert executor.workers()[0].state == "loading"
        (tmp_path / "load").unlink()
        await idle(executor)
        assert executor.load_state().ready
        assert executor.workers()[0].engine == "bars"


async def test_an_engine_that_cannot_load_is_reported_with_the_reason_and_tasks_still_end(tmp_path: Path) -> None:
    (tmp_path / "load").write_text("fail")
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        state = executor.load_state()
        assert (state.ready, state.stage) == (False, "failed")
        assert "made of cheese" in state.detail
        with pytest.raises(errors.LipsyncError, match="made of cheese"):
            await render(worker, make_task(tmp_path))
        executor.release(worker)
        (tmp_path / "load").unlink()
        await render(await idle(executor), make_task(tmp_path))
        assert executor.load_state().ready


async def test_a_worker_that_dies_while_loading_is_started_three_times_then_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "load").write_text("die")
    with caplog.at_level(logging.ERROR):
        async with running(tmp_path) as executor:
            worker = await idle(executor)
            state = executor.load_state()
            assert (state.ready, state.stage) == (False, "failed")
            assert f"died {MAX_LOAD_CRASHES} times while loading bars" in state.detail
            deaths = [record for record in caplog.records if "worker process-0 died" in record.getMessage()]
            assert len(deaths) == MAX_LOAD_CRASHES
            with pytest.raises(errors.WorkerCrashed):
                await render(worker, make_task(tmp_path))


async def test_a_worker_that_is_stopped_while_it_starts_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, worker_silence_s=6) as executor:
        await until(lambda: bool(workers_of(os.getpid())))
        [stuck] = workers_of(os.getpid())
        stuck.suspend()
        assert executor.workers()[0].state == "starting"
        task = make_task(tmp_path, duration_s=0.2)
        assert (await render(await idle(executor), task)).n_frames == 5
        assert not stuck.is_running()
        assert "it did not start for 6 s" in caplog.text


async def test_a_worker_that_is_stopped_while_it_loads_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "load").write_text("slow")
    async with running(tmp_path, worker_silence_s=6) as executor:
        await until(lambda: executor.load_state().fraction == 0.5)
        [stuck] = workers_of(os.getpid())
        stuck.suspend()
        (tmp_path / "load").unlink()
        assert (await render(await idle(executor), make_task(tmp_path, duration_s=0.2))).n_frames == 5
        assert not stuck.is_running()
        assert "sent no message" in caplog.text


async def test_a_load_without_progress_ends_with_the_reason_and_tasks_still_end(tmp_path: Path) -> None:
    (tmp_path / "load").write_text("slow")  # Loading never ends: heartbeats go on, progress does not.
    async with running(tmp_path, worker_silence_s=6, load_timeout_s=1) as executor:
        worker = await idle(executor)
        state = executor.load_state()
        assert (state.ready, state.stage) == (False, "failed")
        assert f"died {MAX_LOAD_CRASHES} times while loading bars: loading bars made no progress" in state.detail
        (tmp_path / "load").unlink()
        assert (await render(worker, make_task(tmp_path, duration_s=0.2))).n_frames == 5
        assert executor.load_state().ready


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
async def test_a_worker_that_no_kill_ends_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel keeps a killed process while a call of the process waits for a disk whose driver hangs."""
    monkeypatch.setattr(process_executor, "_KILL_S", 0.5)
    for name in ("backing", "weights"):
        (tmp_path / name).mkdir()
    (tmp_path / "backing" / "load").write_text("slow")
    with FreezingVolume(tmp_path / "backing", tmp_path / "weights") as volume:
        async with running(tmp_path / "weights", load_timeout_s=1, worker_silence_s=8) as executor:
            await until(lambda: executor.load_state().fraction == 0.5)
            [stuck] = workers_of(os.getpid())
            volume.swallow()
            try:
                await until(lambda: len(workers_of(os.getpid())) == 2)
                assert "a killed worker process does not end" in caplog.text
            finally:
                (tmp_path / "backing" / "load").unlink()
                volume.thaw()
            await until(lambda: not stuck.is_running())
            assert (await render(await idle(executor), make_task(tmp_path, duration_s=0.2))).n_frames == 5


async def test_a_slow_load_with_heartbeats_and_progress_is_not_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "load").write_text("slow")
    async with running(tmp_path, worker_silence_s=5) as executor:
        await until(lambda: executor.load_state().fraction == 0.5)
        since = time.monotonic()
        await until(lambda: time.monotonic() - since > 6)
        (tmp_path / "load").unlink()
        await idle(executor)
        assert "died" not in caplog.text


async def test_without_any_engine_the_reason_is_shown_and_a_task_ends_with_it(tmp_path: Path) -> None:
    executor = ProcessExecutor(Settings(weights_dir=tmp_path), Registry({"bars": EngineEntry("nobody_wrote_it")}))
    await executor.start()
    try:
        worker = await idle(executor)
        assert executor.load_state().stage == "failed"
        assert "No engine can run here. bars: " in executor.load_state().detail
        with pytest.raises(errors.EngineUnavailable):
            await render(worker, make_task(tmp_path))
    finally:
        await executor.close()


async def test_tasks_end_even_when_no_worker_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    async with running(tmp_path) as executor:
        worker = await idle(executor)
        assert executor.load_state().stage == "failed"
        assert "does not start: it ended with status 1" in executor.load_state().detail
        with pytest.raises(errors.WorkerCrashed, match="ended with status 1"):
            await render(worker, make_task(tmp_path))
        executor.release(worker)
        monkeypatch.undo()  # The cause is removed, so the next start succeeds.
        await until(lambda: executor.workers()[0].state == "ready")
        assert (await render(await idle(executor), make_task(tmp_path))).n_frames == 50


async def test_a_default_engine_that_arrives_later_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    executor = ProcessExecutor(Settings(weights_dir=tmp_path), Registry({"late": EngineEntry("arrives_late")}))
    await executor.start()
    try:
        worker = await idle(executor)
        assert worker.engines == frozenset()
        package = tmp_path / "arrives_late"
        package.mkdir()
        for part, names in (
            ("__init__", "REGISTRY"),
            ("options", "Options"),
            ("info", "describe"),
            ("engine", "create"),
        ):
            origin = "stand_in" if part == "__init__" else f"stand_in.{part}"
            (package / f"{part}.py").write_text(f"from {origin} import {names}\n")
        importlib.invalidate_caches()
        await executor.load_default()
        await until(lambda: executor.load_state().ready)
        assert worker.engines == {"late"}
        task = replace(make_task(tmp_path), engine="late")
        assert (await render(worker, task)).n_frames == 50
    finally:
        await executor.close()
