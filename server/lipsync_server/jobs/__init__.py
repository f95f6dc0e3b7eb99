"""Jobs: their states, their database, their queue and their retention. Knows no engine and no HTTP."""
