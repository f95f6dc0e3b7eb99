"""Engine `preview`: warps a portrait by its face landmarks, on any CPU, with nothing to download.

Contents: speech.py and readout.py turn sound into mouth shapes, motion.py adds blinks and head movement, puppet.py
draws one frame (with head.py, mouth.py, lids.py and interior.py), calibration.py measures how far this portrait's mouth
opens, and engine.py runs them in order. mesh.py names the landmarks, fields.py has the warp's arithmetic.
"""
