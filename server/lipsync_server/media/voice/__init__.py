"""Speech from text: a caller's words become the sound of the video, where no recording was sent.

    wishes.py    options of a caller: the text and the voice
    pieces.py    a long text in pieces
    voices.py    Kokoro's voices by name
    choice.py    the voice of a text: Kokoro where its model files are here, else espeak-ng
    symbols.py   espeak-ng's phonetic letters as Kokoro's
    kokoro.py    Kokoro-82M, a neural voice, by ONNX Runtime
    speak.py     one piece of a text as samples in a file; runs in a decoder process

Knows texts, files and media/espeak.py. Does not know engines, jobs or HTTP.
"""
