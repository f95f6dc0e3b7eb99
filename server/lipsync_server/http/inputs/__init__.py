"""From a request to checked files: forms, JSON, addresses; every byte is counted while it arrives."""
