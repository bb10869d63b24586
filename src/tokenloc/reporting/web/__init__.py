"""The web page of ``tokenloc serve``: models that look at uploaded pictures, and what stands around them.

models   checkpoints, and what they saw in the last pictures
answer   the HTML of what was found
download the annotation file of what was found
guard    what the server answers at all, and how much it takes in
page     the page itself, in Gradio
server   started and ended, with a folder that goes with it
"""

from tokenloc.reporting.web.models import Models, load_models
from tokenloc.reporting.web.page import Limits
from tokenloc.reporting.web.server import free_port, private_folder, serving

__all__ = ["Limits", "Models", "free_port", "load_models", "private_folder", "serving"]
