"""The HTTP face of the server: thin handlers over jobs/, one middleware for errors, models that generate the OpenAPI."""
