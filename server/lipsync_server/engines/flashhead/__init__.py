"""Engine `flashhead`: a 1.5 B model of the head (SoulX-FlashHead), whose square is set back into the whole picture.

Contents: job.py has the order of a job; video/face_crop.py the square around the face; video/window_loop.py denoising
and decoding; video/paste_back.py the blending into the picture; model/ the transformer; loading/ the model files. VAEs,
kernels, encoders and the sampler are in the package `models/` beside `engines/`.
"""
