"""Engine `infinitetalk`: one or two talking people with InfiniteTalk's weights on Wan2.1-I2V-14B, or with FlashTalk's.

Contents:

    the order of a job                    job.py, in six chapters; video/run_window.py for one window
    guidance (prompt, sound, APG)         video/guidance.py; its numbers and presets are in options.py
    the denoising step                    video/window_loop.py, on models/sampling/sampler.py
    the VAE (pixels to latents and back)  models/wan_vae/vae.py; used by video/window_loop.py and video/conditions.py
    a kernel                              models/kernels/; models/kernels/attention.py chooses the attention kernel, and
                                          model/fast_blocks.py calls the fused ones
    the transformer's blocks              model/blocks.py (reference), model/fast_blocks.py (NVIDIA, one person)
    prompt, picture and speech encoders   models/encoders/
    model files, LoRA, GPU memory         loading/; files/ finds and chooses them
    whether the engine can run here       info.py
    speeds, for the bill and the doctor   datasheet.py
    `lipsync weights scan` and `convert`  model_files.py

`models/` is the package beside `engines/`, with the parts that several engines share.
"""
