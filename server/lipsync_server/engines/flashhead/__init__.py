"""Engine `flashhead`: a 1.5 B model of the head (SoulX-FlashHead), whose square is set back into the whole picture.

Where to find and change each part: job.py has the order of a job; video/face_crop.py the square round the face;
video/window_loop.py denoising and decoding; video/paste_back.py the way back into the picture; model/ the transformer;
loading/ the model files. VAEs, kernels, encoders and the sampler are in the package `models/` beside `engines/`.
"""
