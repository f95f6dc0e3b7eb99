"""A process that computes its share of the transformer's tokens, for tests/engines/infinitetalk/test_parallel.py.

A spawned process imports the module of its function. This one imports the transformer alone, so that the process starts
in two seconds of processor time. With the libraries of the encoders it takes eight.
"""

import torch
import torch.distributed as dist
from lipsync_server.engines.infinitetalk.model.sequence_parallel import SequenceParallel
from lipsync_server.random_models.infinitetalk_transformer import random_transformer
from transformer_golden import TINY, inputs_for, run

# Latent sizes: 6 tokens a frame are shared out evenly by two, 15 are not.
CASES = [(n_people, size) for n_people in (1, 2) for size in ((4, 6), (6, 10))]
# More sizes than torch.compile makes versions of a block; every second one is uneven.
COMPILED = [(1, (2, 2 * columns)) for columns in range(3, 13)] + [(2, size) for size in ((4, 6), (6, 10), (6, 14))]


def compute_share(rank: int, n_processes: int, folder: str) -> None:
    """Compute all cases as process `rank` of `n_processes`, and save the results below `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=n_processes)
    model = random_transformer(TINY, dtype=torch.float32)
    model.share_tokens(SequenceParallel(TINY.num_heads))
    # Each case runs twice: the second run uses the stored keys and values of the context and the stored rotary tables.
    results = [[run(model, inputs_for(TINY, n_people, size=size)) for _ in range(2)] for n_people, size in CASES]
    model.compile_blocks(backend="eager")
    results += [[run(model, inputs_for(TINY, n_people, size=size))] for n_people, size in COMPILED]
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
