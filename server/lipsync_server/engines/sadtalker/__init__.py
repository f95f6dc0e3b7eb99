"""Engine `sadtalker`: one picture and one voice on a 6 GB GPU, by the networks of SadTalker.

audio/ turns speech into coefficients of a 3-D face model; face/ cuts the face out and puts it back; renderer/ draws
frames from the coefficients; loading/ reads the model files; engine.py runs them in order. Networks compute in float32,
or in bfloat16 or float16 where the engine chooses that.
"""
