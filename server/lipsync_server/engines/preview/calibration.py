"""Measures the opening of a portrait's mouth in test frames, so that an opening of 1 looks the same on every face.

Faces differ: the same warp parts some lips twice as far as others. So a few test frames are drawn with known commands
(the warp's input), the landmark model measures the gap between the lips in each, and the measured curve gap(command)
is inverted to command(gap). Knows no sound.
"""

import dataclasses

import numpy as np

from lipsync_server.engines.landmarks import Face, FaceLandmarker
from lipsync_server.engines.preview import head
from lipsync_server.engines.preview.mesh import FaceFrame, lip_gap
from lipsync_server.engines.preview.mouth import FULL_GAP, MouthPose
from lipsync_server.engines.preview.puppet import Pose, Puppet

# The gap between the lips at opening 1, in face heights: the gap of a clear open vowel, as in "father".
TARGET_GAP = 0.09
_SHUT = 0.004
# Upper bound of the command: the overlap of shut lips + _MOST[0] + _MOST[1] * opening.
_MOST = (0.12, 1.2)
_COMMANDS = np.array([0.0, 0.08, 0.16, 0.25, 0.35, 0.5, 0.7, 0.95, 1.25, 1.6])


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The measured curve of one portrait's mouth.

    opens, at: points of the curve; an opening of opens[i] needs the command at[i]. close: weight of the closing
    movement that shuts parted lips, 1 or more.
    """

    close: float
    opens: tuple[float, ...]
    at: tuple[float, ...]

    def apply(self, pose: Pose) -> Pose:
        """`pose` with its opening turned into the command for this portrait."""
        command = float(np.interp(pose.mouth.open, self.opens, self.at))
        return dataclasses.replace(pose, mouth=dataclasses.replace(pose.mouth, open=command, close=self.close))


def calibrate(puppet: Puppet, landmarker: FaceLandmarker, face: Face) -> Calibration:
    """Draw test frames of `puppet` and measure the lips' gap in each. Runs the landmark model about ten times."""

    def gap(command: float, close: float) -> float:
        pose = MouthPose(open=command, close=close, spread=0, narrow=0, press=0)
        canvas = puppet.picture.copy()
        puppet.draw(Pose(pose, np.zeros(len(head.BASES), np.float32)), canvas)
        points = landmarker.refine(canvas, face.points).points
        return lip_gap(points, FaceFrame.of(points))

    close = 1.0
    shut = gap(0.0, close)
    while shut > _SHUT and close < 1.35 and puppet.mouth.parted:
        close += 0.1
        shut = gap(0.0, close)
    gaps = np.array([shut, *(gap(command, close) for command in _COMMANDS[1:])])
    rises = np.maximum.accumulate(gaps - gaps[0])
    if rises[-1] < 0.5 * TARGET_GAP:
        # The landmark model does not see this mouth open (a flat drawing, a covered mouth). An average face is assumed.
        return Calibration(close, (0.0, 1.4), (0.0, 1.4))
    # The curve is made strictly rising, so that it has an inverse.
    opens = (rises + np.arange(len(rises)) * 1e-5) / (TARGET_GAP - min(gaps[0], _SHUT))
    # The gap of a tilted or small mouth is measured too small; without this bound the mouth would open too far.
    most = puppet.mouth.slack / FULL_GAP + _MOST[0] + _MOST[1] * opens
    commands = np.minimum(_COMMANDS, most)
    return Calibration(close, tuple(float(v) for v in opens), tuple(float(v) for v in commands))
