"""Workers, which run engines: in child processes of the server, or in actors of a Ray cluster."""
