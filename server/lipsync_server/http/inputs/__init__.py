"""Turn a request into checked files: forms, JSON, addresses. Every byte is counted while it arrives."""
