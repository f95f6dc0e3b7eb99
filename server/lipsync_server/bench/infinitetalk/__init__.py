"""InfiniteTalk's benchmark."""
