"""Windows of a picture under the camera move, with random weights.

The picture of the next window is encoded before that window, or during this one. Knows this comparison; rig.py runs the
windows.
"""

from lipsync_server.bench import memory
from lipsync_server.bench.infinitetalk.bench import Bench
from lipsync_server.bench.infinitetalk.rig import Rig
from lipsync_server.bench.infinitetalk.windows import resident
from lipsync_server.bench.record import Numbers


def moving_windows(bench: Bench, found: Numbers) -> None:
    """Run three `fast` windows each way, with fp8 weights that stay on the GPU.

    The job has four windows, so that the third window also has a next one to prepare. "condition" is the time for
    which a window waits for its picture. With `beside`, "denoise" includes the host's work for the next window.
    """
    rig = Rig(bench, size=bench.scale.picture, n_windows=4, moves=True)
    transformer = resident(bench)

    def measure(part: Numbers) -> None:
        rig.new_job()
        memory.reset_peak(bench.device)
        way = "beside" if rig.encodes_beside else "in order"
        rig.run(rig.loop(transformer, "fast"), 3, part, note=f"moving picture, {way}")
        part |= memory.peaks(bench.device)

    bench.part(found, "in_order", measure)
    rig.encodes_beside = True
    bench.part(found, "beside", measure)
    transformer.close()
