"""Every CUDA kernel of ours compiles for each GPU of its list, without spills and within their shared memory.

No GPU is needed: NVRTC and the assembler inside it are libraries. A spill moves registers to slow memory in the
innermost loop, and a kernel beyond a card's shared memory does not start there.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lipsync_server.models.kernels import attention_8bit, attention_bf16, attention_int8, nvrtc

# Compute capability -> shared memory that one block of threads can have there, in KiB (CUDA C++ Programming Guide,
# "Technical Specifications per Compute Capability").
SHARED_KIB = {"80": 163, "86": 99, "89": 99, "90a": 227, "100": 227, "120": 99}
HOPPER_FORMS = [
    ("attention_8bit", {"VALUES_8BIT": values, "CLUSTER": cluster}) for values in (0, 1) for cluster in (1, 2)
]


def spilled_bytes(report: str) -> int:
    """Bytes of spill stores and loads in the assembler's report."""
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill", report))


@pytest.mark.parametrize("capability", SHARED_KIB)
def test_int8_attention_compiles_for_every_card_since_ampere(capability: str) -> None:
    cubin, report = nvrtc.compile_for(f"sm_{capability}", "attention_int8", {})
    assert cubin.startswith(b"\x7fELF")
    assert spilled_bytes(report) == 0
    assert SHARED_KIB[capability] * 1024 >= attention_int8.SHARED_BYTES


@pytest.mark.parametrize(("name", "constants"), [("attention_bf16", {}), *HOPPER_FORMS])
def test_hopper_kernels_compile_without_spills(name: str, constants: dict[str, int]) -> None:
    cubin, report = nvrtc.compile_for("sm_90a", name, constants)
    assert cubin.startswith(b"\x7fELF")
    assert spilled_bytes(report) == 0


def test_a_kernel_that_does_not_compile_is_reported_with_the_reason() -> None:
    with pytest.raises(Exception, match=r"attention_8bit did not compile: .*error"):
        nvrtc.compile_for("sm_80", "attention_8bit", {"VALUES_8BIT": 1, "CLUSTER": 1})


# In a process of its own: a failure would change b" " for all tests after it.
_EMPTY_REPORT = """
from lipsync_server.models.kernels import nvrtc
program = nvrtc.check(nvrtc.bindings("nvrtc").nvrtcCreateProgram(b"", b"empty.cu", 0, [], []))
nvrtc.check(nvrtc.bindings("nvrtc").nvrtcCompileProgram(program, 0, []))
assert nvrtc.report_of(program) == ""
assert bytes([32]).hex() == "20"
"""


def test_a_compiler_without_a_report_leaves_the_bytes_of_the_process_alone() -> None:
    """Python has one object for b" ". NVRTC once wrote a zero there, and model files written later were damaged."""
    run = subprocess.run([sys.executable, "-c", _EMPTY_REPORT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_values_are_stored_in_the_order_of_the_scores() -> None:
    """The arithmetic in int8_rounding._values is KEY_ORDER."""
    order = [p // 2 % 8 * 8 + p // 16 % 4 * 2 + p % 2 for p in range(64)]
    assert tuple(order) == attention_int8.KEY_ORDER
    assert sorted(order) == list(range(64))
    assert attention_8bit.TILE % 64 == 0


def test_every_cuda_file_is_compiled_by_a_test_here() -> None:
    """A new kernel has to be added above, or nothing would notice that it does not compile."""
    files = {path.stem for path in Path(nvrtc.__file__).parent.glob("*.cu")}
    assert files == {"attention_int8", "attention_bf16", *(name for name, _ in HOPPER_FORMS)}
    assert {capability.removesuffix("a") for capability in SHARED_KIB} == {"80", "86", "89", "90", "100", "120"}


@pytest.mark.parametrize("eight_bit", [False, True])
def test_hopper_kernels_fit_the_shared_memory(eight_bit: bool) -> None:
    """At the length of a window at 480p, and at 720p."""
    for n_tokens in (33_600, 75_600):
        _, _, shared_bytes = attention_8bit.compiled_form(eight_bit, attention_8bit.n_tiles(n_tokens))
        assert shared_bytes <= SHARED_KIB["90a"] * 1024
    assert SHARED_KIB["90a"] * 1024 >= attention_bf16.SHARED_BYTES
