"""Decoding in processes of their own, with limits, because pictures and recordings come from strangers.

A library that decodes a file can be made to take gigabytes of memory, minutes of time, or to crash. Such a library runs
in a child process that the kernel limits and that the server can kill at any moment.

    limits.py   the limits of memory, processor time and wall time for one file
    tasks.py    the closed list of tasks of a decoder process
    child.py    the program that runs in the decoder process
    process.py  one decoder process, seen from the process that started it
    pool.py     decoder processes kept warm, so that a file does not wait for Python to start
"""
