"""The answers that callers see: the models of the wire format, errors, a job as JSON, a video as a file."""
