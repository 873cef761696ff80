"""The page: a list of conversations, the chat, and a panel of forms.

The list and the chat are custom elements, which talk to the API and watch its stream of events: their scripts are in
chat/ui/static. The forms are Gradio's. What a form sets for the next message goes straight to those scripts.
"""

from html import escape
from pathlib import Path

import gradio as gr

from chat.settings import Settings
from chat.ui.chat_form import build_chat_form
from chat.ui.data_form import build_data_form
from chat.ui.element import element
from chat.ui.settings_form import build_settings_form
from chat.ui.texts import t

STATIC = Path(__file__).parent / "static"
STATIC_PATH = "/page"
ICON = STATIC / "icon.svg"

STYLES = "".join(
    f'<link rel="stylesheet" href="{STATIC_PATH}/{name}.css">'
    for name in ("chat", "sidebar", "panel", "panel_forms", "dialogs", "page")
)
"""Added by Gradio when its own styles are there, so that ours come after them."""

PRELOADS = "".join(
    f'<link rel="modulepreload" href="{STATIC_PATH}/{path.name}">'
    for path in sorted(STATIC.glob("*.js"))
    if path.name != "before.js"
)
"""All modules of the start at once: each says only when it has come which others it needs. Those in the folder late
come when what they are for is first seen."""

HEAD = f"""
<script>{(STATIC / "before.js").read_text()}</script>
{PRELOADS}
<script type="module" src="{STATIC_PATH}/page.js"></script>
"""


def admin_head(settings: Settings) -> str:
    """Return what the head tells administrators alone: where on the machine the data and the model are."""
    told = {"data-folder": str(settings.data), "model": settings.model}
    return "".join(f'<meta name="parley-{name}" content="{escape(text)}">' for name, text in told.items())


def build_page() -> gr.Blocks:
    """Lay the page out, the same for all who use it: what is an owner's comes from the API."""
    blocks = gr.Blocks(title="Parley", fill_height=True, fill_width=True, analytics_enabled=False)
    with blocks:
        with gr.Sidebar(width=300, elem_id="sidebar"):
            element("parley-sidebar", elem_id="conversations")
        element("parley-chat", elem_id="chat", scale=1)
        with (
            gr.Sidebar(position="right", open=False, width=360, elem_id="panel"),
            gr.Tabs(elem_id="panel-tabs", overflow_behavior="wrap"),
        ):
            with gr.Tab(t("chat"), id="chat"):
                build_chat_form()
            with gr.Tab(t("context"), id="context"):
                element("parley-ledger")
            with gr.Tab(t("data"), id="data"):
                build_data_form()
            with gr.Tab(t("sites"), id="sites"):
                element("parley-sites")
            with gr.Tab(t("settings"), id="settings"):
                build_settings_form()
    return blocks
