"""The form of the page's own settings, which the browser keeps, of the model in use, and of who may use it."""

import gradio as gr

from chat.ui.element import element
from chat.ui.texts import t
from model.checkpoint.catalog import CATALOG

TRIGGER = """
window.parley = {...window.parley, fillSettings: () => trigger('filled')};
if (parley.settingsValues) trigger('filled');
"""
"""Lets the scripts have the form filled in with what the browser keeps."""


def build_settings_form() -> None:
    """Lay the form out; what is chosen is done by chat/ui/static/forms.js."""
    element("parley-model")
    with gr.Row(elem_id="model-choice"):
        model = gr.Dropdown(list(CATALOG), label=t("model"), allow_custom_value=True, elem_id="model-name", scale=3)
        load = gr.Button(t("load_model"), elem_id="load-model", scale=1, min_width=80)
    load.click(None, [model], None, js="(name) => parley.loadModel(name)")

    themes = [(str(t(f"theme_{name}")), name) for name in ("system", "light", "dark")]
    theme = gr.Radio(themes, value="system", label=t("theme"), elem_id="theme")
    theme.input(None, [theme], None, js="(theme) => parley.setTheme(theme)")
    languages = [("English", "en"), ("Deutsch", "de")]
    language = gr.Radio(languages, value="en", label=t("language"), elem_id="language")
    language.input(None, [language], None, js="(language) => parley.setLanguage(language)")
    preset = gr.Dropdown([], label=t("default_preset"), elem_id="default-preset")
    preset.input(None, [preset], None, js="(name) => parley.setDefaultPreset(name)")
    data_folder = gr.Textbox(label=t("data_folder"), interactive=False, elem_id="data-folder")
    with gr.Accordion(t("account"), open=False, elem_id="account"):
        element("parley-account")
    with gr.Accordion(t("keys"), open=False, elem_id="keys"):
        element("parley-keys")
    with gr.Accordion(t("users"), open=False, elem_id="users"):
        element("parley-users")

    filled = gr.HTML(visible="hidden", js_on_load=TRIGGER)
    filled.filled(None, None, [theme, language, preset, model, data_folder], js="() => parley.settingsValues()")
