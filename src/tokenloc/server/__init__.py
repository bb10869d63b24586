"""``tokenloc serve``: one FastAPI application with a web page and a REST API.

app          creates the application from models and limits
api          the routes of the REST API, and their JSON
predict      runs models on uploaded images and keeps results for a short time
annotations  annotation files to download
page         the web page
limits       middleware that enforces hosts, origins, sizes and the length of the queue
run          loads models, binds a port, starts and stops the server
"""

from tokenloc._extras import library

for _module in ("fastapi", "python_multipart", "uvicorn"):
    library(_module, "server")
