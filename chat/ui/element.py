"""The custom elements of chat/ui/static, as parts of Gradio's layout."""

from typing import Any

import gradio as gr


def element(name: str, **layout: Any) -> gr.HTML:
    """Place a custom element; Gradio's styles for texts are not for it."""
    return gr.HTML(f"<{name}></{name}>", apply_default_css=False, js_on_load=None, **layout)
