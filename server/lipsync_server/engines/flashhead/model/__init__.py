"""The FlashHead transformer."""
