"""Compile the project's .cu files at run time for this machine's GPU, and launch their kernels.

NVRTC is CUDA's compiler as a library. torch contains it, so no CUDA toolkit is needed. The result is machine code for
exactly this GPU (a cubin), so the driver compiles nothing and may be older. Knows the compiler and the driver. Does not
know the computation of a kernel, nor its GPUs.
"""

import ctypes
import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipsync_server.errors import EngineUnavailable

_FOLDER = Path(__file__).parent
# Sources that include the Hopper header also need the instructions that only "sm_90a" names.
_HEADER = "hopper.cuh"


def why_not(device: torch.device, name: str, **constants: int) -> str | None:
    """The reason why kernel `name` cannot be built for the GPU `device`; None if it can. Compiles it to find out."""
    try:
        compiled(device, name, **constants)
    except (
        Exception
    ) as error:  # missing bindings, an old driver or a compiler error: in each case the kernel cannot be used
        return f"it could not be built: {error}"
    return None


def compiled(device: torch.device, name: str, **constants: int) -> Any:
    """The kernel of the CUDA file `name` with these constants, loaded into the device's context.

    The compiler takes a second, once per process. Raises EngineUnavailable with the compiler's message.
    """
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _loaded(index, native_architecture(index), name, tuple(constants.items()))


def compile_for(architecture: str, name: str, constants: dict[str, int]) -> tuple[bytes, str]:
    """Machine code of the file `name` for an architecture like "sm_89", and the assembler's report. No GPU is needed.

    The report names the registers, the shared memory and the spills of the kernel. For an architecture like
    "compute_80" the result is PTX, NVIDIA's portable assembly, and the report is empty.
    """
    nvrtc = bindings("nvrtc")
    source, header = ((_FOLDER / file).read_bytes() for file in (f"{name}.cu", _HEADER))
    program = check(nvrtc.nvrtcCreateProgram(source, f"{name}.cu".encode(), 1, [header], [_HEADER.encode()]))
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"--device-as-default-execution-space"]
    options += [b"--ptxas-options=-v"]
    options += [f"-D{constant}={value}".encode() for constant, value in constants.items()]
    status = int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0])
    report = report_of(program)
    if status != 0:
        raise EngineUnavailable(f"the kernel {name} did not compile: {report[:500]}")
    form = "PTX" if architecture.startswith("compute_") else "CUBIN"
    n_bytes = check(getattr(nvrtc, f"nvrtcGet{form}Size")(program))
    code = _to_write_to(n_bytes)
    check(getattr(nvrtc, f"nvrtcGet{form}")(program, code))
    return code[:n_bytes], report


def report_of(program: Any) -> str:
    """The report of a compiled program, "" if the compiler had nothing to say."""
    nvrtc = bindings("nvrtc")
    log = _to_write_to(check(nvrtc.nvrtcGetProgramLogSize(program)))
    check(nvrtc.nvrtcGetProgramLog(program, log))
    return log.decode(errors="replace").strip("\0 \n")


def _to_write_to(n_bytes: int) -> bytes:
    """Bytes that a C function may overwrite: `n_bytes` and one more.

    Python keeps one object for all equal bytes of length 1. An empty report has the length 1, and NVRTC writes a zero
    there: with `b" " * 1` every b" " of the process became b"\\0", and files written afterwards were damaged.
    """
    return bytes(n_bytes + 1)


@functools.cache
def _loaded(device_index: int, architecture: str, name: str, constants: tuple[tuple[str, int], ...]) -> Any:
    code, _ = compile_for(architecture, name, dict(constants))
    return load(code, name, torch.device("cuda", device_index))


def native_architecture(device_index: int) -> str:
    """The architecture of a GPU, as the compiler names it."""
    major, minor = torch.cuda.get_device_capability(device_index)
    return f"sm_{major}{minor}{'a' if major == 9 else ''}"


def load(code: bytes, name: str, device: torch.device) -> Any:
    """Load machine code or PTX into the device's context, and return its kernel `name`."""
    driver = bindings("driver")
    device_index = device.index if device.index is not None else torch.cuda.current_device()
    torch.cuda.current_stream(device_index).synchronize()
    module = check(driver.cuModuleLoadData(code))
    kernel = check(driver.cuModuleGetFunction(module, name.encode()))
    limits = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    check(driver.cuFuncSetAttribute(kernel, attribute, check(driver.cuDeviceGetAttribute(limits, device_index))))
    return kernel


def launch(
    kernel: Any, grid: tuple[int, int], n_threads: int, shared_bytes: int,
    maps: Sequence[Any], pointers: Sequence[Tensor | None], integers: Sequence[int], factor: float,
    device: torch.device,
) -> None:  # fmt: skip
    """Start a kernel that takes tensor maps, pointers, ints and a float, in this order, on the current stream."""
    start(kernel, grid, n_threads, shared_bytes, [*pointers, *integers, factor], device, maps)


def start(
    kernel: Any, grid: tuple[int, int], n_threads: int, shared_bytes: int,
    values: Sequence[Tensor | int | float | None], device: torch.device, maps: Sequence[Any] = (),
) -> None:  # fmt: skip
    """Start a kernel that takes `maps` and then `values` on the current stream. None is a null pointer."""
    arguments = [_argument(value) for value in values]
    addresses = [int(one.getPtr()) for one in maps] + [ctypes.addressof(argument) for argument in arguments]
    parameters = (ctypes.c_void_p * len(addresses))(*addresses)
    stream = torch.cuda.current_stream(device).cuda_stream
    check(
        bindings("driver").cuLaunchKernel(
            kernel, *grid, 1, n_threads, 1, 1, shared_bytes, stream, ctypes.addressof(parameters), 0
        )
    )


def _argument(value: Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_int | ctypes.c_float:
    """A kernel's argument as C has it: a pointer, a 32-bit int or a float."""
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(0)
    return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_float(value)


@functools.cache
def bindings(name: str) -> Any:
    """NVIDIA's Python bindings of "driver" or "nvrtc". Raises ImportError where the package is not installed."""
    return importlib.import_module(f"cuda.bindings.{name}")


def check(result: tuple[Any, ...]) -> Any:
    """Return the value of a (status, value) pair from cuda.bindings. Raises an error that names a bad status."""
    if int(result[0]) != 0:
        raise EngineUnavailable(f"a kernel of ours failed on the GPU: {result[0]}")
    return result[1] if len(result) > 1 else None
