"""One forward of the transformer in every form, and loading a file.

Knows the forms and their comparison. Does not know windows, sound or pictures.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from lipsync_server.bench import memory
from lipsync_server.bench.clock import median, relative_error
from lipsync_server.bench.infinitetalk.bench import EIGHT_BIT, Bench
from lipsync_server.bench.record import Numbers, say
from lipsync_server.engines.infinitetalk.loading.transformer_files import load_transformer, set_activations
from lipsync_server.engines.infinitetalk.model.transformer import EmbeddedCondition, InfiniteTalkTransformer
from lipsync_server.models.layers.linear_8bit import replace_linears
from lipsync_server.models.tensor_files.quanto import save_quantized
from lipsync_server.quantization import EightBit
from lipsync_server.random_models.infinitetalk_transformer import (
    layout_of,
    random_parameters,
    random_transformer,
)


def forwards(bench: Bench, found: Numbers) -> None:
    """One forward in every form. The 8-bit forms use the bf16 model's own weights, rounded in place."""
    model = random_transformer(bench.config, device=bench.device, attention="auto")
    work = Work(bench, model)
    wanted = work.forward()

    def note(form: str, attention: str, density: float = 1.0) -> None:
        def measure(part: Numbers) -> None:
            model.set_attention(attention, density)
            part |= work.measured(wanted)

        bench.part(found, form, measure)

    if bench.cuda:
        model.compile_blocks()
        note("bf16_compiled", "cudnn")
        for block in model.blocks:
            block._compiled_call_impl = None
        model.use_fast_blocks()
        note("bf16_fused_cudnn", "cudnn")
        note("bf16_fused", "bf16")
        note("bf16_fused_int8_scores", "int8")
        bench.part(found, "profile_bf16", lambda part: part.update(_profile_with(model, "bf16", work)))
    else:
        note("bf16", "auto")
    round_blocks(model, "fp8", bench.device)
    work.embed_condition()
    if bench.cuda:
        model.use_fast_blocks()
        note("fp8_fused", "cudnn")
        note("fp8_fused_bf16", "bf16")
        for form, (attention, density) in EIGHT_BIT.items():
            note(f"fp8_fused_{form}", attention, density)
        bench.part(found, "profile", lambda part: part.update(_profile_with(model, "auto", work)))
    else:
        note("fp8", "auto")
    model.close()


def int8_forward(bench: Bench, found: Numbers) -> InfiniteTalkTransformer:
    """One forward with int8 weights, compared with the same weights in bf16.

    Returns the model; the caller closes it.
    """
    model = random_transformer(bench.config, device=bench.device, attention="auto")
    work = Work(bench, model)
    wanted = work.forward()
    round_blocks(model, "int8", bench.device)
    if bench.cuda:
        model.compile_blocks()
        found["fused_blocks"] = model.use_fast_blocks() or "yes"
    model.set_attention("auto")
    work.embed_condition()
    found["forward"] = work.measured(wanted)
    return model


def round_blocks(model: InfiniteTalkTransformer, kind: EightBit, device: torch.device) -> None:
    """Round the blocks' linear layers to 8 bits, as quantised files hold them."""
    replace_linears(model, lambda name, _: kind if name.startswith("blocks.") else None)
    set_activations(model, device)


class Work:
    """A model with inputs of the full token count, the same for every model of one size."""

    def __init__(self, bench: Bench, model: InfiniteTalkTransformer) -> None:
        self._bench, self._model = bench, model
        config, (height, width) = bench.config, bench.scale.picture
        generator = torch.Generator(bench.device).manual_seed(1)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, device=bench.device, generator=generator)

        n_latents = bench.scale.n_latents
        n_video = (n_latents - 1) * config.vae_scale + 1
        self._text = normal(min(300, config.text_len), config.text_dim)
        self._tokens = normal(257, config.image_dim)
        self._audio = normal(1, n_video, config.audio_window, config.audio_blocks, config.audio_channels)
        self._latent = normal(config.in_dim, n_latents, height // 8, width // 8)
        self._timestep = torch.tensor([700.0], device=bench.device)
        self._context = self.embed_condition()

    @torch.inference_mode()
    def embed_condition(self) -> EmbeddedCondition:
        """Embed text, picture and sound with the current weights."""
        self._context = self._model.embed_condition(text=self._text, image_tokens=self._tokens, audio=self._audio)
        return self._context

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """One forward of the model: float32 (channels, latent frames, height / 8, width / 8)."""
        out: Tensor = self._model(self._latent, self._timestep, self._context)
        return out

    def measured(self, wanted: Tensor) -> Numbers:
        """Seconds, peak memory, and the error against `wanted`."""
        bench = self._bench
        memory.reset_peak(bench.device)
        started = time.perf_counter()
        got = self.forward()
        bench.clock.wait()
        first_s = time.perf_counter() - started
        times = bench.clock.seconds(self.forward)
        found: Numbers = {
            "s": median(times),
            "samples_s": times,
            "first_s": round(first_s, 2),
            "peak_gib": memory.peak_gib(bench.device),
            "against_bf16_eager": relative_error(got, wanted),
            "attention": self._model.attention_line,
        }
        say(str(found))
        return found


def loading(bench: Bench, found: Numbers) -> None:
    """Write a quantised file in the published layout, then load it from the page cache."""
    path = bench.scratch / "quantised.safetensors"
    dtype, started = torch.bfloat16, time.perf_counter()
    parameters = random_parameters(bench.config, device=bench.device, dtype=dtype)
    save_quantized(layout_of(bench.config, dtype), parameters, "fp8", path)
    found["written_s"] = round(time.perf_counter() - started, 2)
    try:
        started = time.perf_counter()
        model = load_transformer(path, config=bench.config, device=bench.device)
        bench.clock.wait()
        taken, size = time.perf_counter() - started, path.stat().st_size
    finally:
        path.unlink()
        path.with_suffix(".json").unlink()
    model.close()
    found |= {"s": round(taken, 2), "file_bytes": size, "gb_per_s": round(size / taken / 1e9, 2)}


def _profile_with(model: InfiniteTalkTransformer, attention: str, work: Work) -> Numbers:
    """The profile of one forward with the kernel `attention`."""
    model.set_attention(attention)
    return _profile(work.forward)


def _profile(run: Callable[[], object]) -> Numbers:
    """Seconds of each kernel in one run, and the seconds of the run in all (wall_s) and of all kernels (busy_s)."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        wall = time.perf_counter() - started
    rows = [(event.self_device_time_total / 1e6, event.count, event.key[:120]) for event in recorded.key_averages()]
    rows.sort(reverse=True)
    busy = sum(row[0] for row in rows)
    top = [{"s": round(s, 4), "calls": calls, "kernel": key} for s, calls, key in rows[:20]]
    return {"wall_s": round(wall, 4), "busy_s": round(busy, 4), "kernels": top}
