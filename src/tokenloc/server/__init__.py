"""The web page of ``tokenloc serve``: models that look at uploaded images, and what stands around them.

models   checkpoints, and what they saw in the last images
answer   the HTML of what was found
download the annotation file of what was found
guard    what the server answers at all, and how much it takes in
page     the page itself, in Gradio
server   started and ended, with a folder that goes with it
"""

from tokenloc.server.models import Models, load_models
from tokenloc.server.page import Limits
from tokenloc.server.server import free_port, private_folder, serving

__all__ = ["Limits", "Models", "free_port", "load_models", "private_folder", "serving"]
