"""Frames to MP4: what the rest of the package uses of media's video side, under one name.

encoder.py makes durable segments of frames, mux.py joins them with the caller's sound from soundtrack.py.
"""

from lipsync_server.media.encoder import FrameEncoder
from lipsync_server.media.mux import VideoInfo, mux, probe_video

__all__ = ["FrameEncoder", "VideoInfo", "mux", "probe_video"]
