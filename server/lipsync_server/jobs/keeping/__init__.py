"""How long each video and record is kept, and how a lost database is made again."""
