"""Turns a request into windows of frames: people, picture, conditions, guidance, the window loop.

run_window.py has the order of the parts of one window and is the place to begin.
"""
