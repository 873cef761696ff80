"""The form of what is kept: export, import, backup, and what is kept no longer."""

from typing import get_args

import gradio as gr

from chat.formats.table import FORMATS
from chat.ui.element import element
from chat.ui.texts import t
from storage.tables import Channel


def build_data_form() -> None:
    """Lay the form out; what it says is done by chat/ui/static/data.js and care.js."""
    with gr.Accordion(t("export"), open=True):
        formats = [(f"{chosen.name}: {chosen.description}", chosen.name) for chosen in FORMATS.values()]
        chosen = gr.Dropdown(formats, value="parley", label=t("format"), elem_id="export-format")
        redact = gr.Checkbox(label=t("redact"), info=t("redact_info"), elem_id="export-redact")
        zipped = gr.Checkbox(label=t("zip"), elem_id="export-zip")
        element("parley-export")
    export = [chosen.change, redact.change, zipped.change]
    gr.on(export, None, [chosen, redact, zipped], None, js="(...values) => parley.setExport(values)")
    with gr.Accordion(t("import"), open=False):
        element("parley-import")
    with gr.Accordion(t("backup"), open=False, elem_id="backup"):
        element("parley-backup")
    with gr.Accordion(t("retention"), open=False):
        days = gr.Number(365, precision=0, minimum=1, maximum=36_500, label=t("older_than"), elem_id="expiry-days")
        channels = [(str(t(f"channel_{name}")), name) for name in ("any", *get_args(Channel))]
        channel = gr.Dropdown(channels, value="any", label=t("channel"), elem_id="expiry-channel")
        archived = gr.Checkbox(label=t("only_archived"), elem_id="expiry-archived")
        element("parley-expiry")
    rule = [days.input, channel.input, archived.input]
    gr.on(rule, None, [days, channel, archived], None, js="(...values) => parley.setExpiry(values)")
