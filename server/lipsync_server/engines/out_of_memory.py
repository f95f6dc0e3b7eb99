"""Words the error of GPU memory that ran out, for every engine and for the worker. gpu_errors.py recognises it."""

from lipsync_server.errors import OutOfMemory


def gpu_out_of_memory(error: BaseException, *, doing: str, remedies: tuple[str, ...]) -> OutOfMemory:
    """The error for a person. doing: "while ...". remedies: changes that this person can make, the best first."""
    first_line = next(iter(str(error).splitlines()), "out of memory")
    return OutOfMemory(
        f"The GPU's memory ran out {doing} ({first_line}). Try {', '.join(remedies)}, or stop other programs that use "
        "the GPU."
    )
