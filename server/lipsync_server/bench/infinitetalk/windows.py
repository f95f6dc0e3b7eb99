"""Whole windows with random weights: per preset, with a step cache, on a card of 24 GB, at 720p, with two people.

Knows the windows to measure. rig.py runs a window.
"""

from functools import partial

from torch import Tensor

from lipsync_server.bench import memory
from lipsync_server.bench.infinitetalk.bench import EIGHT_BIT, Bench
from lipsync_server.bench.infinitetalk.forward import int8_forward
from lipsync_server.bench.infinitetalk.rig import Rig
from lipsync_server.bench.record import Numbers, say
from lipsync_server.engines.infinitetalk.flashtalk import OWN_SIZE
from lipsync_server.engines.infinitetalk.loading import memory as memory_plan
from lipsync_server.engines.infinitetalk.model.teacache import DEFAULT_THRESHOLD, TeaCache
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.quantization import Quantization
from lipsync_server.random_models.infinitetalk_transformer import random_transformer

_CARD_BYTES = 24 * 10**9
# A smaller card, on which 8-bit weights must work at 480p.
_LESS_BYTES = 22 * 10**9


def preset_windows(bench: Bench, found: Numbers) -> None:
    """Three `fast` windows and one of `balanced`, with fp8 weights that stay on the GPU (resident)."""
    rig = Rig(bench, size=bench.scale.picture, n_windows=3)
    transformer = resident(bench)
    memory.reset_peak(bench.device)
    for preset, n_windows in (("fast", 3), ("balanced", 1)):
        loop = rig.loop(transformer, preset)
        bench.part(found, preset, partial(rig.run, loop, n_windows, note=preset))
    found |= memory.peaks(bench.device)
    if bench.cuda:
        bench.part(found, "fast_half", lambda part: _half_of_the_keys(rig, transformer, part))
    transformer.close()


def _half_of_the_keys(rig: Rig, transformer: InfiniteTalkTransformer, found: Numbers) -> None:
    """Two `fast` windows with self-attention over half of the key tiles."""
    transformer.set_attention(*EIGHT_BIT["8bit_half"])
    rig.run(rig.loop(transformer, "fast"), 2, found, note="fast, half of the keys")


def flashtalk_windows(bench: Bench, found: Numbers) -> None:
    """FlashTalk: windows of 33 frames at 448 x 768, one forward a step; four steps, then two, fp8 and resident."""
    rig = Rig(bench, size=OWN_SIZE if bench.cuda else bench.scale.picture, n_windows=3, flashtalk=True)
    transformer = resident(bench)
    memory.reset_peak(bench.device)
    for name, preset in (("4_steps", "balanced"), ("2_steps", "fast")):
        bench.part(found, name, partial(rig.run, rig.loop(transformer, preset), 3, note=f"FlashTalk, {name}"))
    found |= memory.peaks(bench.device)
    transformer.close()


def quality_window(bench: Bench, found: Numbers) -> None:
    """One `quality` window with TeaCache, which computes the steps of the reference's recorded sequence."""
    rig = Rig(bench, size=bench.scale.picture, n_windows=1)
    transformer = resident(bench)
    rig.run(rig.loop(transformer, "fast"), 1, Numbers(), note="to warm up")
    cache = _RecordedCache(steps=Options(preset="quality").sampling.steps)
    rig.run(rig.loop(transformer, "quality", cache), 1, found, note="quality with TeaCache")
    found["teacache"] = cache.threshold
    found["forwards"] = len(cache.log)
    found["forwards_computed"] = sum(decision.computed for decision in cache.log)
    transformer.close()


def quality_window_uncached(bench: Bench, found: Numbers) -> None:
    """One `quality` window with every forward computed."""
    rig = Rig(bench, size=bench.scale.picture, n_windows=1)
    transformer = resident(bench)
    rig.run(rig.loop(transformer, "fast"), 1, Numbers(), note="to warm up")
    rig.run(rig.loop(transformer, "quality"), 1, found, note="quality")
    transformer.close()


def capped_windows(bench: Bench, found: Numbers) -> None:
    """Two `fast` windows with fp8 weights on a card of 24 GB, then two on a card of 22 GB."""
    _capped(bench, found, "fp8")


def capped_int8_windows(bench: Bench, found: Numbers) -> None:
    """Two `fast` windows with int8 weights on a card of 24 GB, then two on a card of 22 GB."""
    _capped(bench, found, "int8")


def _capped(bench: Bench, found: Numbers, quant: Quantization) -> None:
    """Two `fast` windows with weights in `quant` on a card of 24 GB, then two on a card of 22 GB."""
    size, name = bench.scale.picture, f"fast, {quant}"
    _on_a_small_card(bench, found, size, note=f"{name}, 24 GB", quant=quant)

    def within_less(part: Numbers) -> None:
        _on_a_small_card(bench, part, size, note=f"{name}, 22 GB", quant=quant, n_bytes=_LESS_BYTES)

    bench.part(found, "in_22_gb", within_less)


def hd_windows(bench: Bench, found: Numbers) -> None:
    """720p: two `fast` windows on a card of 24 GB, then one window with all weights resident."""
    size = bench.scale.picture_hd
    bench.part(found, "capped", lambda part: _on_a_small_card(bench, part, size, note="fast, 720p, 24 GB"))
    bench.part(found, "resident", lambda part: _hd_resident(bench, part))


def _hd_resident(bench: Bench, found: Numbers) -> None:
    """One `fast` window at 720p with all weights resident."""
    rig = Rig(bench, size=bench.scale.picture_hd, n_windows=1)
    transformer = resident(bench)
    # The run on the small card has compiled all code except the encoding of the picture.
    rig.conditions.at(rig.schedule.windows[0])
    memory.reset_peak(bench.device)
    rig.run(rig.loop(transformer, "fast"), 1, found, note="fast, 720p")
    found |= memory.peaks(bench.device)
    transformer.close()


def two_people_windows(bench: Bench, found: Numbers) -> None:
    """Two `fast` windows with a voice for each half of the picture. The blocks are compiled, not fused."""
    rig = Rig(bench, size=bench.scale.picture, n_windows=2, n_people=2)
    transformer = resident(bench)
    memory.reset_peak(bench.device)
    rig.run(rig.loop(transformer, "fast"), 2, found, note="two people")
    found["fused_blocks"] = False
    found |= memory.peaks(bench.device)
    transformer.close()


def int8_windows(bench: Bench, found: Numbers) -> None:
    """int8 weights: one forward against bf16, then two `fast` windows."""
    transformer = int8_forward(bench, found)
    rig = Rig(bench, size=bench.scale.picture, n_windows=2)
    memory.reset_peak(bench.device)
    bench.part(found, "fast", partial(rig.run, rig.loop(transformer, "fast"), 2, note="int8"))
    found |= memory.peaks(bench.device)
    transformer.close()


def resident(bench: Bench) -> InfiniteTalkTransformer:
    """The model with fp8 weights and all blocks on the card, as the engine has it on a large card."""
    transformer = random_transformer(bench.config, device=bench.device, quant="fp8", attention="auto")
    _speed_up(bench, transformer)
    return transformer


def _speed_up(bench: Bench, transformer: InfiniteTalkTransformer) -> None:
    """Compile and fuse the blocks, as the engine does after loading."""
    if bench.cuda:
        transformer.compile_blocks()
        transformer.use_fast_blocks()


def _on_a_small_card(
    bench: Bench,
    found: Numbers,
    size: tuple[int, int],
    *,
    note: str,
    quant: Quantization = "fp8",
    n_bytes: int = _CARD_BYTES,
) -> None:
    """Two `fast` windows on a card of `n_bytes`, which include CUDA's context.

    The engine's plan chooses the blocks that are streamed from host memory.
    """
    rig = Rig(bench, size=size, n_windows=2)
    rig.keep_clip = False
    # CUDA takes its own memory only at the first work. Here it must be part of the card's bytes.
    rig.conditions.at(rig.schedule.windows[0])
    rig.new_job()
    bench.free()
    with memory.card_of(n_bytes, bench.device) as left:
        plan = memory_plan.plan(
            bench.config, quant=quant, pixels=size[0] * size[1], passes=1, compiled=bench.cuda,
            free_bytes=left - memory.allocated_bytes(bench.device),
        )  # fmt: skip
        found |= {"plan": plan.line, "resident_blocks": plan.resident_blocks}
        say(plan.line)
        rig.keep_clip = plan.keep_encoders
        transformer = random_transformer(
            bench.config, device=bench.device, quant=quant, attention="auto",
            offload="none" if plan.resident_blocks == plan.n_blocks else plan.resident_blocks,
        )  # fmt: skip
        _speed_up(bench, transformer)
        transformer.cache_context = plan.cache_context
        memory.reset_peak(bench.device)
        rig.run(rig.loop(transformer, "fast"), 2, found, note=note)
        found |= memory.peaks(bench.device)
        transformer.close()


class _RecordedCache(TeaCache):
    """TeaCache with recorded decisions: random time embeddings change too much for TeaCache to skip any pass.

    At 480p with the threshold 0.2 the public reference computes 24 of 40 steps, so 72 of 120 forwards. The tests
    compare our TeaCache with this sequence (a480). The share with the trained weights is not known.
    """

    _COMPUTED = (0, 1, 2, 3, 4, 6, 8, 10, 11, 12, 13, 15, 17, 20, 22, 23, 25, 27, 29, 31, 33, 35, 37, 38)

    def __init__(self, steps: int) -> None:
        super().__init__("480p", steps, DEFAULT_THRESHOLD, passes=3)

    def _change(self, e0: Tensor, previous: Tensor | None) -> float:
        return self.threshold if self._counter // self.passes in self._COMPUTED else 0.0
