"""Windows of a picture under the camera move, with random weights: the next one's picture in turn, or beside this one.

Knows the comparison; rig.py runs the windows.
"""

from lipsync_server.bench import memory
from lipsync_server.bench.infinitetalk.bench import Bench
from lipsync_server.bench.infinitetalk.rig import Rig
from lipsync_server.bench.infinitetalk.windows import resident
from lipsync_server.bench.record import Numbers


def moving_windows(bench: Bench, found: Numbers) -> None:
    """Three `fast` windows each way, fp8 and resident, of a job of four: the third, too, has a next one to prepare.

    "condition" is what a window waits for. Beside, "denoise" contains what the host does for the next one meanwhile.
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
