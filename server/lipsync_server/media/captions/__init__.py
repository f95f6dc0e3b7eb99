"""Captions: the spoken words, when each is heard, and how they are shown.

    wishes.py           what a caller may ask for
    writing_systems.py  the languages of a letter's writing system, and the voice that reads it
    script.py           a text as words, in any writing system
    japanese.py         Japanese words and their readings, by a dictionary
    text_language.py    the language of a text, from its letters and its commonest words
    numbers_aloud.py    numbers, dates and prices in the words of speech
    spoken_words.py     the words as synthetic speech, with the start of each word
    align.py            the same words in the caller's recording, by comparing it with the synthetic speech
    whisper.py          the words of a recording without a script
    cues.py             words as lines that a person can read in time
    subtitles.py        lines as SRT, VTT and the text track of an MP4
    fonts.py            which font can draw which word
    burn.py             lines drawn into the frames

Knows recordings, texts and frames. Does not know engines, jobs or HTTP.
"""
