"""The tables of InfiniteTalk's measured sections, for docs/performance.md and documents with the same tables.

A table has no row for a form that was not measured. Knows the form of the sections' numbers; measures nothing.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lipsync_server.bench.infinitetalk.names import ERRORS, FORMS, KERNELS, PARTS, PROFILE
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.video.guidance import GuidanceScales
from lipsync_server.markdown import table

Numbers = Mapping[str, Any]
# Windows are compared with the first of these forms that was measured. The first is the current default.
_DEFAULT_FORMS = ("fp8_fused_8bit", "fp8_fused_int8_scores")
# Computed forwards of 120, in the sequence of decisions in windows.py.
_FORWARDS_WITH_TEACACHE = 72
# Parts of a window that are shorter than this are not listed.
_LEAST_S = 0.05


def _forward(numbers: Numbers, reference: Numbers) -> str:
    """A row for each form of the transformer's forward."""
    measured = dict(_section(numbers, "forward"))
    int8 = _section(numbers, "int8")
    if "forward" in int8:
        measured["int8" if int8.get("fused_blocks") == "yes" else "int8_compiled"] = int8["forward"]
    rows = []
    for key, form in FORMS.items():
        if "s" not in measured.get(key, {}):
            continue
        found, against = measured[key], reference["forward"].get(key, {})
        alone_s = against.get("products_s")
        theirs = against.get("reference_s", {})
        rows.append(
            (
                form,
                f"{found['s']:.2f}",
                _number(against.get("target_s"), 1),
                _number(alone_s, 2),
                "" if alone_s is None else f"{alone_s / found['s']:.0%}",
                f"{found['peak_gib']:.1f} GiB" if found.get("peak_gib") else "",
                f"{found['first_s']:.1f} s",
                ", ".join(f"{s:.2f} ({kernel})" for kernel, s in theirs.items()),
            )
        )
    heads = (
        "form", "seconds", "target", "at reference rate", "of that rate", "peak memory", "its first call",
        "published code",
    )  # fmt: skip
    return table(heads, rows)


def _profile(numbers: Numbers, reference: Numbers, *, of: str = "profile") -> str:
    """A row for each kind of work in the profile `of`, and the idle time."""
    profile = _section(numbers, "forward").get(of)
    if profile is None or "kernels" not in profile:
        return "Not measured yet."
    seconds: dict[str, float] = {}
    calls: dict[str, int] = {}
    for row in profile["kernels"]:
        work = next((work for pattern, work in PROFILE if re.search(pattern, row["kernel"])), "the rest")
        seconds[work] = seconds.get(work, 0.0) + row["s"]
        calls[work] = calls.get(work, 0) + row["calls"]
    seconds["the rest"] = profile["busy_s"] - sum(s for work, s in seconds.items() if work != "the rest")
    ordered = sorted(seconds, key=lambda work: (work == "the rest", -seconds[work]))
    rows = [
        (work, f"{seconds[work]:.3f}", str(calls.get(work, "")) if work != "the rest" else "") for work in ordered
    ]  # fmt: skip
    rows.append(("idle", f"{profile['wall_s'] - profile['busy_s']:.3f}", ""))
    return table(("", "s", "calls"), rows)


def _kernels(numbers: Numbers, reference: Numbers) -> str:
    """A row for each attention kernel, the fastest first, and the kernels that were not measured.

    Files of earlier versions have an error on normal values only, and no time of the kernel alone.
    """
    found = _section(numbers, "kernels")
    kernels = {name: value for name, value in found.items() if isinstance(value, dict)}
    measured = sorted((item for item in kernels.items() if "s" in item[1]), key=lambda item: float(item[1]["s"]))
    kinds = list(dict.fromkeys(kind for _, value in measured for kind in value.get("errors", {})))
    # Two products, two operations for a multiply-add.
    heads, dim, tokens = (
        found.get(key, usual) for key, usual in (("heads", 40), ("head_dim", 128), ("tokens", 33_600))
    )
    operations = 4 * heads * dim * tokens**2
    rows = []
    for name, value in measured:
        rate = f"{value['s'] * 1000:.1f} ({operations / value['s'] / 1e12:.0f} TFLOP/s)"
        row = [KERNELS.get(name, name), rate]
        if kinds:
            alone_s, slowest_s = value.get("alone_s"), max(value.get("s_by_input", {}).values(), default=value["s"])
            row += ["" if alone_s is None else f"{alone_s * 1000:.1f}", f"{slowest_s * 1000:.1f}"]
            row += [_number(value.get("errors", {}).get(kind), 4) for kind in kinds]
        else:
            row.append(f"{value['error']:.4f}")
        rows.append(tuple(row))
    missing = [
        f"- {name}: {value.get('missing') or 'failed: ' + value['failed']}"
        for name, value in kernels.items()
        if "missing" in value or "failed" in value
    ]
    columns = ("kernel alone, ms", "ms on the slowest input", *kinds) if kinds else ("relative error on normal values",)
    text = table(("kernel", "ms" if not kinds else "ms, rounding included", *columns), rows)
    return text + ("\n\nNot measured:\n\n" + "\n".join(missing) if missing else "")


def _older_cards(numbers: Numbers, reference: Numbers) -> str:
    """A row for each kernel: its time on this card as native code and as the code of each older card."""
    rows = []
    for kernel, part in _section(numbers, "older_cards").items():
        if not isinstance(part, dict) or "native" not in part:
            continue
        cells = []
        for card in ("8.0", "8.6", "8.9"):
            one = part.get(card)
            same = (
                "" if one is None else "equal" if one["equal"] else f"differs by up to {one['largest_difference']:.2g}"
            )
            cells.append("" if one is None else f"{one['s'] * 1000:.2f}, {same}")
        rows.append((kernel, f"{part['native']['s'] * 1000:.2f}", *cells))
    heads = ("kernel", "native code, ms", "code of 8.0, ms and result", "code of 8.6", "code of 8.9")
    return table(heads, rows)


def _errors(numbers: Numbers, reference: Numbers) -> str:
    """A row for each fast form: its rounding error."""
    found = _section(numbers, "errors")
    rows = [
        (text, f"{found[key]['one_forward']:.4f}", f"{found[key]['four_steps']:.4f}")
        for key, text in ERRORS.items()
        if "four_steps" in found.get(key, {})
    ]
    return table(("form", "one forward", "latent after 4 steps"), rows)


def _windows(numbers: Numbers, reference: Numbers) -> str:
    """A row for each preset and setting: a whole window, and its seconds per second of video."""
    windows, hd = _section(numbers, "windows"), _section(numbers, "hd")
    quality, uncached = _section(numbers, "quality"), _section(numbers, "quality_uncached")
    all_forwards = {preset: _n_forwards(preset) for preset in ("fast", "balanced", "quality")}
    lines: list[tuple[str, int, Numbers | None, Numbers]] = [
        ("`fast` (4 steps, 1 pass)", all_forwards["fast"], windows.get("fast"), reference["windows"]["fast"]),
        (
            "`balanced` (8 steps, 2 passes, guidance every second step)",
            all_forwards["balanced"], windows.get("balanced"), reference["windows"]["balanced"],
        ),
        (
            "`quality` (40 steps, 3 passes) with TeaCache 0.2",
            quality.get("forwards_computed", 0), quality, reference["windows"]["quality"],
        ),
        ("`quality`, no cache", all_forwards["quality"], uncached, {}),
        ("`fast`, looking at half of the keys", all_forwards["fast"], windows.get("fast_half"), {}),
        ("`fast`, two people", all_forwards["fast"], _section(numbers, "two_people"), {}),
        ("`fast`, int8 weights", all_forwards["fast"], _section(numbers, "int8").get("fast"), {}),
        ("`fast`, 720p (75,600 tokens)", all_forwards["fast"], hd.get("resident"), {}),
    ]  # fmt: skip
    products_s = reference["forward"][_DEFAULT_FORMS[0]]["products_s"]
    rows: list[tuple[str, ...]] = []
    for text, n_forwards, found, against in lines:
        if not found or "s_per_s" not in found:
            continue
        alone = n_forwards * products_s / found["new_video_s"] if against else None
        theirs = against.get("reference_s_per_s")
        rows.append(
            (
                text, str(n_forwards), _parts(found["windows"][-1]), f"**{found['s_per_s']:.2f}**",
                _number(against.get("target_s_per_s"), 1), _number(alone, 1),
                "" if alone is None else f"{alone / found['s_per_s']:.0%}",
                "" if theirs is None else f"{theirs:.1f} ({against['reference_note']})",
            )
        )  # fmt: skip
    heads = (
        "preset", "forwards", "a window", "s/s", "target", "at reference rate", "of that rate", "published code",
    )  # fmt: skip
    rows += _derived(numbers, reference, all_forwards["quality"])
    return table(heads, rows)


def _moving(numbers: Numbers, reference: Numbers) -> str:
    """Two rows: a moving picture encoded before its window, and during the window before."""
    found = _section(numbers, "moving")
    rows = []
    for key, way in (("in_order", "before the window"), ("beside", "beside the window before")):
        part = found.get(key, {})
        if "s_per_s" in part:
            memory = f"{part['peak_gib']:.1f} GiB" if part.get("peak_gib") else ""
            rows.append((way, _parts(part["windows"][-1]), f"{part['s_per_s']:.2f}", memory))
    return table(("a window's picture is encoded", "a `fast` window", "s/s", "tensors"), rows)


def _derived(numbers: Numbers, reference: Numbers, n_forwards: int) -> list[tuple[str, ...]]:
    """Rows for `quality` windows that were not run: count of forwards x seconds of a forward, without other work."""
    forwards = _section(numbers, "forward")
    forward = next((forwards[form] for form in _DEFAULT_FORMS if "s" in forwards.get(form, {})), None)
    if forward is None:
        return []
    rows: list[tuple[str, ...]] = []
    for section, text, n in (
        ("quality", "`quality` with TeaCache 0.2", _FORWARDS_WITH_TEACACHE),
        ("quality_uncached", "`quality`, no cache", n_forwards),
    ):
        if "s_per_s" not in _section(numbers, section):
            total_s = n * forward["s"]
            per_s = f"{total_s / reference['window_new_video_s']:.0f}"
            taken = f"{total_s:.0f} s, *derived* from {forward['s']:.2f} s a forward"
            rows.append((text, str(n), taken, per_s, "", "", "", ""))
    return rows


def _memory(numbers: Numbers, reference: Numbers) -> str:
    """A row for each small card: speed and peak memory."""
    fp8, int8, hd = (_section(numbers, name) for name in ("capped", "capped_int8", "hd"))
    resident, int8_resident = _section(numbers, "windows").get("fast"), _section(numbers, "int8").get("fast")
    lines = (
        ("480p", "24 GB", fp8, resident),
        ("480p", "22 GB", fp8.get("in_22_gb"), resident),
        ("480p, int8", "24 GB", int8, int8_resident),
        ("480p, int8", "22 GB", int8.get("in_22_gb"), int8_resident),
        ("720p", "24 GB", hd.get("capped"), hd.get("resident")),
    )
    rows = []
    for size, held_to, capped, whole in lines:
        if not capped:
            continue
        # In older files the window is one level deeper.
        window = capped if "windows" in capped else capped.get("fast", {})
        if "s_per_s" not in window:
            continue
        of_resident = "" if not whole or "s_per_s" not in whole else f"{window['s_per_s'] / whole['s_per_s']:.2f}"
        peaks = [f"{capped[key]:.1f} GiB" if capped.get(key) else "" for key in _PEAKS]
        blocks = capped["plan"].partition(" blocks")[0]
        rows.append(
            (size, held_to, blocks, _parts(window["windows"][-1]), f"{window['s_per_s']:.2f}", of_resident, *peaks)
        )  # fmt: skip
    heads = (
        "size", "held to", "blocks on the card", "a `fast` window", "s/s", "of resident", "tensors",
        "torch's allocator", "the card (CUDA's share included)",
    )  # fmt: skip
    return table(heads, rows)


_PEAKS = ("peak_gib", "peak_reserved_gib", "peak_device_gib")


def _http(numbers: Numbers, reference: Numbers) -> str:
    """A row for each job over HTTP, and the time from the server's start to ready."""
    found = _section(numbers, "http")
    rows = []
    for key, value in found.items():
        if not isinstance(value, dict):
            continue
        sound = f"{value['sound_s']:g} s" + (", the server's first job" if key == "warm_up" else "")
        target = reference["http"].get(key, {}).get("target_s_per_s")
        memory = [f"{value[name]:.1f} GiB" if name in value else "" for name in ("peak_rss_gib", "peak_device_gib")]
        speed = f"{value['s_per_s']:.2f}" if key == "warm_up" else f"**{value['s_per_s']:.2f}**"
        rows.append((sound, f"{value['wall_s']:.1f}", speed, _number(target, 1), *memory))
    heads = ("sound", "POST to last byte, s", "s/s", "target", "memory of server and worker", "of the card")
    text = table(heads, rows)
    if "ready_s" in found:
        text += f"\n\nFrom the server's start to ready, everything loaded: {found['ready_s']:.1f} s"
        text += f" (target {reference['loading']['target_s']:.0f})."
    return text


def _soak(numbers: Numbers, reference: Numbers) -> str:
    """A row for each recorded job of the soak: the memory after it."""
    found = _section(numbers, "soak")
    rows = []
    for key, value in found.items():
        if not key.startswith("after_"):
            continue
        gpu = [f"{value[name]:.2f} GiB" if name in value else "" for name in ("gpu_allocated_gib", "gpu_reserved_gib")]
        rows.append((f"after job {key.removeprefix('after_')}", *gpu, f"{value['rss_gib']:.2f} GiB"))
    return table(("", "tensors on the card", "torch's allocator", "host memory"), rows)


def _loading(numbers: Numbers, reference: Numbers) -> str:
    """A sentence on the loading of a quantised file."""
    found = _section(numbers, "loading")
    if "s" not in found:
        return "Loading: not measured yet."
    return (
        f"Loading: a quantised file of {found['file_bytes'] / 1e9:.1f} GB from the page cache to ready in "
        f"**{found['s']:.1f} s** ({found['gb_per_s']:.1f} GB/s)."
    )


def _two_gpus(numbers: Numbers, reference: Numbers) -> str:
    """A row for each measured part: on one GPU and on two."""
    found = _section(numbers, "two_gpus")
    alone, together = found.get("alone", {}), found.get("together", {})
    if "window_s" not in together:
        return table((), ())
    pairs = [
        ("a forward", alone["forward_s"], together["forward_s"]),
        ("a window: picture, 4 forwards, decoding", alone["window_s"]["all"], together["window_s"]["all"]),
        ("of it decoding, which each does for itself", alone["window_s"]["decode"], together["window_s"]["decode"]),
    ]
    rows = [(part, f"{one:.2f} s", f"{two:.2f} s") for part, one, two in pairs]
    if "relative_l2" in found:
        error = found["relative_l2"]
        rows += [
            ("of a forward, trading tokens for heads", "", f"{found['exchange_s']:.2f} s"),
            ("a forward's relative L2 to one GPU's", "", f"{error['forward']:.3f}"),
            ("the denoised latents'", "", f"{error['latents']:.3f}"),
        ]
    return table(("", "one GPU", "two"), rows)


def _peers(numbers: Numbers, reference: Numbers) -> str:
    """A row for each other system with published figures."""
    rows = [(one["system"], one["hardware"], one["setting"], one["s_per_s"]) for one in reference["peers"]]
    return table(("system", "hardware", "setting", "s/s"), rows)


TABLES: dict[str, Callable[[Numbers, Numbers], str]] = {
    "forward": _forward, "profile": _profile, "profile_bf16": partial(_profile, of="profile_bf16"),
    "kernels": _kernels, "older_cards": _older_cards, "errors": _errors, "windows": _windows, "moving": _moving,
    "memory": _memory, "http": _http, "soak": _soak, "loading": _loading, "two_gpus": _two_gpus, "peers": _peers,
}  # fmt: skip


def _section(numbers: Numbers, section: str) -> Numbers:
    """A section's numbers. A failed section has the numbers up to the failure."""
    found: Numbers = numbers.get(section, {})
    return found


def _parts(window: Mapping[str, float]) -> str:
    """The seconds of a window and of its parts as text: `11.65 s: denoise 8.80, decode 2.74`."""
    parts = ((name, s) for name, s in window.items() if name != "all" and s >= _LEAST_S)
    return f"{window['all']:.2f} s: " + ", ".join(f"{PARTS.get(name, name)} {s:.2f}" for name, s in parts)


def _n_forwards(preset: str) -> int:
    """Count of forwards in a window of this preset: the guidance passes of all steps."""
    sampling = Options.model_validate({"preset": preset}).sampling
    scales = GuidanceScales(sampling.text_guidance, sampling.audio_guidance, sampling.guidance_interval)
    return sum(len(scales.passes_at(step, sampling.steps)) for step in range(sampling.steps))


def _number(value: float | None, digits: int) -> str:
    """A number as text; "" for None."""
    return "" if value is None else f"{value:.{digits}f}"
