"""The transformer over several processes computes what it computes in one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lipsync_server.engines.infinitetalk.parallel import SequenceParallel, Share
from lipsync_server.engines.infinitetalk.random_weights import random_transformer
from lipsync_server.errors import EngineUnavailable
from transformer_golden import TINY, inputs_for, run

# Latent sizes: 6 tokens a frame are shared out evenly by two, 15 are not.
CASES = [(n_people, size) for n_people in (1, 2) for size in ((4, 6), (6, 10))]
N_HEADS = TINY.num_heads


def _process(rank: int, n_processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=n_processes)
    model = random_transformer(TINY, dtype=torch.float32)
    SequenceParallel(model)
    # Twice each: keys and values of the context are kept, and so are the rotary tables.
    results = [[run(model, inputs_for(TINY, n_people, size=size)) for _ in range(2)] for n_people, size in CASES]
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_several_processes_compute_what_one_does(tmp_path: Path):
    n_processes = 2
    mp.spawn(_process, (n_processes, str(tmp_path)), nprocs=n_processes)
    alone = random_transformer(TINY, dtype=torch.float32)
    expected = [run(alone, inputs_for(TINY, n_people, size=size)) for n_people, size in CASES]
    for rank in range(n_processes):
        for wanted, got in zip(expected, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            for one in got:
                torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-5)


def test_a_number_of_gpus_that_does_not_divide_the_heads_is_refused_with_one_that_would(tmp_path: Path):
    dist.init_process_group("fake", rank=0, world_size=3, store=dist.HashStore())
    try:
        with pytest.raises(EngineUnavailable, match=f"divides {N_HEADS}"):
            SequenceParallel(random_transformer(TINY, dtype=torch.float32))
    finally:
        dist.destroy_process_group()


def test_every_token_has_one_process_and_comes_back_to_its_place():
    x = torch.arange(3 * 15 * 2).reshape(3 * 15, 2)
    shares = [Share.of((3, 3, 5), rank, 4) for rank in range(4)]
    parts = [share.take(x) for share in shares]
    assert [len(part) for part in parts] == shares[0].counts == [12, 12, 12, 9]
    in_order = torch.cat(parts)
    assert sorted(in_order[:, 0].tolist()) == x[:, 0].tolist()
    assert torch.equal(shares[0].first_frame(in_order), x[:15])
    assert all(torch.equal(in_order[share.own], part) for share, part in zip(shares, parts, strict=True))
