"""The description of the API, made from the route table: OpenAPI and the page /docs."""
