"""The database of jobs: SQLite, its tables, and the only module that changes a job's state."""
