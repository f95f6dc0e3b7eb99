"""The garbage collector pauses while modules are imported, and runs as before afterwards."""

import gc

import pytest
from lipsync_server import garbage_collection


def test_no_collection_begins_inside_and_the_collector_runs_again_afterwards() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="of the block"), garbage_collection.paused():
        assert not gc.isenabled()
        raise ValueError("of the block")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with garbage_collection.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
