"""The FlashHead transformer: its sizes, its blocks (plain and fused), and the whole."""
