"""Engine `preview`: warps a portrait by its face landmarks, on any CPU, with nothing to download.

Contents: speech.py and readout.py turn sound into mouth shapes, prosody.py finds phrases and stressed syllables,
motion.py moves the head and the brows with them and adds blinks, puppet.py draws one frame (with head.py, mouth.py,
lids.py and interior.py), calibration.py measures how far this portrait's mouth opens, and engine.py runs them in order.
mesh.py names the landmarks, fields.py has the warp's arithmetic.
"""
