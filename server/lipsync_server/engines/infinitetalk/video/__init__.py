"""From a request to windows of frames: people, picture, conditions, guidance, the window loop."""
