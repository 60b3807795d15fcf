"""The page: a tab for each thing that the service does."""

from __future__ import annotations

import os

# Before Gradio is imported: it counts its users otherwise, and asks for newer versions of itself.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# When it starts it asks its own page, which no proxy knows.
os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy"), "localhost,127.0.0.1")))

import gradio as gr

from .control import control_tab
from .create import create_tab
from .edit import edit_tab
from .offer import Offer
from .running import Service
from .upscale import upscale_tab

KEPT_SECONDS = 3600
"""How long Gradio keeps its copies of images, and how often it looks for older ones."""
TITLE = "Darkroom playground"
# Fonts of the machine: a page without the internet has no others.
THEME_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def page_of(service: Service, offer: Offer) -> gr.Blocks:
    """Make the page; it loads nothing from elsewhere."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {TITLE}\nThe service at {service.url}")
        with gr.Tab("Create"):
            create_tab(service, offer)
        with gr.Tab("ControlNet"):
            control_tab(service, offer)
        with gr.Tab("Edit"):
            edit_tab(service, offer)
        with gr.Tab("Upscale"):
            upscale_tab(service, offer)
    return page


def serve(page: gr.Blocks, *, host: str, port: int) -> str:
    """Serve the page in a thread of this process; returns its address.

    :raises OSError: the port is taken.
    """
    _, address, _ = page.queue(default_concurrency_limit=None).launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        run_history=False,
        theme=gr.themes.Default(**THEME_FONTS),
        footer_links=["api"],
    )
    return str(address)
