"""InfiniteTalk with one small video size: a thirtieth of the work, for tests of a server that do not need the real one.

The package is the product's engine, whose table of sizes is replaced in the worker. Knows nothing else.
"""
