"""The HTTP interface: thin handlers over jobs/, one middleware for errors, models that generate the OpenAPI."""
