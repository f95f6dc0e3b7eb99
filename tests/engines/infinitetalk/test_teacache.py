"""TeaCache skips exactly the forwards that the reference skips, and reuses the right residual."""

import json

import pytest
import torch
from infinitetalk_golden import within
from lipsync_server.engines.infinitetalk.model.teacache import TeaCache
from lipsync_server.engines.infinitetalk.video.sizes import Resolution
from lipsync_server.models.layers.embeddings import unpatchify
from lipsync_server.random_models.infinitetalk_transformer import random_transformer
from safetensors.torch import load_file
from transformer_golden import SMALL, TINY, inputs_for

RUNS = json.loads((SMALL / "teacache_decisions.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_decisions_match_the_reference(name: str) -> None:
    run = RUNS[name]
    e0 = load_file(SMALL / "teacache_e0.safetensors")[f"{name}.e0"]
    resolution: Resolution = "480p" if run["scale"].endswith("480") else "720p"
    cache = TeaCache(resolution, steps=run["steps"], threshold=run["threshold"])
    assert {entry[6] for entry in run["log"]} > {0.0}
    changes: list[float] = []
    for chunk, step, _, counter, slot, computed, accumulated in run["log"]:
        assert cache.computes(e0[step]) is bool(computed), (chunk, step)
        decision = cache.log[-1]
        assert (decision.counter, decision.slot) == (counter, slot)
        changes.append(abs(decision.accumulated - accumulated))
    within(f"I {name} accumulated, {len(changes)} decisions equal", max(changes), 1e-4)


def test_a_skipped_forward_adds_the_last_residual_of_its_slot() -> None:
    model = random_transformer(TINY, dtype=torch.float32)
    inputs = inputs_for(TINY)
    conditioning = model.embed_condition(**{k: inputs[k] for k in ("text", "image_tokens", "audio", "masks")})
    cache = TeaCache("480p", steps=40, threshold=1e12)
    calls: list[int] = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    latents = [inputs["latent"] + i for i in range(18)]
    outs = [model(latent, inputs["timestep"], conditioning, cache) for latent in latents]
    assert [decision.computed for decision in cache.log] == [True] * 15 + [False] * 3
    assert len(calls) == 15
    e, _ = model.embed_time(inputs["timestep"])
    grid = (3, 2, 3)
    for skipped, source in ((15, 12), (16, 13), (17, 14)):
        # With the same latent the blocks would add the same residual again. The head's input shows whether they did.
        seen: dict[str, torch.Tensor] = {}
        hook = model.head.register_forward_hook(lambda _, given, __, seen=seen: seen.__setitem__("x", given[0]))
        torch.testing.assert_close(model(latents[source], inputs["timestep"], conditioning), outs[source])
        hook.remove()
        residual = seen["x"] - model.embed_patches(latents[source])
        wanted = unpatchify(model.head(model.embed_patches(latents[skipped]) + residual, e), grid, TINY.patch_size)
        torch.testing.assert_close(outs[skipped], wanted, atol=1e-5, rtol=0)


def test_an_unchanged_time_embedding_counts_as_little_change() -> None:
    """The polynomial's constant term alone is added, so a few steps are skipped and then one is computed."""
    cache = TeaCache("480p", steps=40, threshold=0.2)
    e0 = torch.ones(1, 6, 8)
    decided = [cache.computes(e0) for _ in range(30)]
    assert decided == [True] * 15 + [False] * 3 + [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_every_pass_has_its_own_slot_and_every_window_begins_anew(passes: int) -> None:
    """The reference always counts three passes. With two passes its count assigns each residual to the wrong pass."""
    steps, cache = 12, TeaCache("480p", steps=12, threshold=1e12, passes=passes)
    e0 = torch.ones(1, 6, 8)
    for _ in range(2):
        decided = [cache.computes(e0) for _ in range(steps * passes)]
        assert decided == [True] * 5 * passes + [False] * 7 * passes
    assert [decision.slot for decision in cache.log] == list(range(passes)) * steps * 2


def test_a_restarted_cache_decides_as_a_new_one() -> None:
    cache = TeaCache("480p", steps=12, threshold=1e12)
    e0 = torch.ones(1, 6, 8)
    for _ in range(20):
        cache.computes(e0)
    cache.restart()
    assert [cache.computes(e0) for _ in range(16)] == [True] * 15 + [False]
