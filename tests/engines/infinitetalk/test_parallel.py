"""The transformer spread over several processes computes the same numbers as in one process."""

import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from infinitetalk_kit import started
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import RenderRequest
from lipsync_server.engines.infinitetalk.model.sequence_parallel import SequenceParallel, Share
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.several_gpus import EXIT_HELPER_LOST, ParallelEngine
from lipsync_server.errors import Cancelled, EngineUnavailable
from lipsync_server.random_models.infinitetalk_transformer import random_transformer
from lipsync_server.settings import Settings
from shared_tokens import CASES, COMPILED, compute_share
from torch._C._distributed_c10d import HashStore
from torch.multiprocessing.spawn import spawn
from transformer_golden import TINY, inputs_for, run

N_HEADS = TINY.num_heads


def test_several_processes_compute_what_one_does_compiled_or_not(tmp_path: Path) -> None:
    n_processes = 2
    spawn(compute_share, (n_processes, str(tmp_path)), nprocs=n_processes)
    alone = random_transformer(TINY, dtype=torch.float32)
    expected = [run(alone, inputs_for(TINY, n_people, size=size)) for n_people, size in CASES + COMPILED]
    for rank in range(n_processes):
        for wanted, got in zip(expected, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            for one in got:
                torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-5)


def test_a_number_of_gpus_that_does_not_divide_the_heads_is_refused_with_one_that_would() -> None:
    dist.init_process_group("fake", rank=0, world_size=3, store=HashStore())
    try:
        with pytest.raises(EngineUnavailable, match=f"divides {N_HEADS}"):
            SequenceParallel(N_HEADS)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"))],
)
def test_engines_in_step_make_the_video_of_one_and_stop_together(
    tiny_weights: Path, tmp_path: Path, device: str
) -> None:
    settings = Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device=device, preset="fast")
    rng = np.random.default_rng(5)
    request = RenderRequest(
        picture=rng.integers(0, 255, (64, 200, 3), dtype=np.uint8),
        speech=(rng.standard_normal(3200) * 0.1).astype(np.float32),
        duration_s=0.2,
        options=Options(preset="fast", steps=1, window_frames=13, motion_frames=5),
    )
    alone = InfiniteTalkEngine(settings)
    expected = np.concatenate(list(alone.generate(request, RecordingContext(tmp_path))))
    alone.close()
    together = ParallelEngine(settings, 2)
    try:
        with pytest.raises(Cancelled):
            list(together.generate(request, RecordingContext(tmp_path, stop=lambda context: True)))
        started(together, request, RecordingContext(tmp_path)).close()
        made = np.concatenate(list(together.generate(request, RecordingContext(tmp_path))))
    finally:
        together.close()
    # Sums in another order are sometimes rounded to another fp8 value, and random weights enlarge that difference.
    difference = np.abs(made.astype(int) - expected)
    assert difference.mean() < 0.02
    assert (difference > 1).mean() < 1e-3


def _lose_a_helper(settings: Settings) -> None:
    ParallelEngine(settings, 2).load()
    [helper] = psutil.Process().children()
    helper.kill()
    time.sleep(60)


def test_when_one_process_dies_the_others_end(tiny_weights: Path, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast")
    worker = mp.get_context("spawn").Process(target=_lose_a_helper, args=(settings,))
    worker.start()
    worker.join(120)
    assert worker.exitcode == EXIT_HELPER_LOST


def test_every_token_has_one_process_and_comes_back_to_its_place() -> None:
    x = torch.arange(3 * 15 * 2).reshape(3 * 15, 2)
    shares = [Share.of((3, 3, 5), rank, 4) for rank in range(4)]
    parts = [share.take(x) for share in shares]
    assert [len(part) for part in parts] == shares[0].counts == [12, 12, 12, 9]
    in_order = torch.cat(parts)
    assert sorted(in_order[:, 0].tolist()) == x[:, 0].tolist()
    assert torch.equal(shares[0].first_frame(in_order), x[:15])
    assert all(torch.equal(in_order[share.own], part) for share, part in zip(shares, parts, strict=True))
