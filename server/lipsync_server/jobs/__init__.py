"""Jobs: their states, their store, their queue, how long they are kept. Knows no engine and no HTTP."""
