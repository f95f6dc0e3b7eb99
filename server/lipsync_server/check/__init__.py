"""Check a finished video before it is published, as a viewer would.

    watch.py      reads the frames once and keeps a few figures of each: brightness, sharpness, change, face, mouth
    listen.py     figures of the sound: level, clipping, silence
    mouth.py      the mouth's opening from landmarks
    agreement.py  how well the mouth follows the lips that a network predicts from the sound, and how late it is
    judge.py      findings with times from the figures, and the score; its limits come from docs/quality-check.md
    quality.py    the result as data
    sheet.py      the contact sheet, a JPEG
    video.py      runs all of these for one file
    origin.py     the engine that a video names in its mark

Stands above the engines, whose landmarks and expected opening it uses, and below the workers.
"""
