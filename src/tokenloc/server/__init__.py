"""``tokenloc serve``: one FastAPI application with a web page and a REST API."""

from tokenloc._extras import library

for _module in ("fastapi", "python_multipart", "uvicorn"):
    library(_module, "server")
