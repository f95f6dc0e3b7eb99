"""Who may call, from where, and how much at the same time."""
