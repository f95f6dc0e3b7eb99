"""How jobs are written down: SQLite, its tables, and the only module that changes a state."""
