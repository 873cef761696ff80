"""The form of the conversation that is shown: its preset and system prompt, and how its replies are drawn."""

import gradio as gr

from chat.ui.texts import t

TRIGGER = """
window.parley = {...window.parley, fillChatForm: () => trigger('opened')};
if (parley.chatFormValues) trigger('opened');
"""
"""Lets the scripts have the form filled in with what a conversation has."""


def build_chat_form() -> None:
    """Lay the form out; it is filled in, and what is set is used, by chat/ui/static/forms.js."""
    opened = gr.HTML(visible="hidden", js_on_load=TRIGGER)
    preset = gr.Dropdown([], label=t("preset"), info=t("preset_info"), elem_id="preset")
    system_prompt = gr.Textbox(
        label=t("system_prompt"), info=t("system_prompt_info"), lines=3, max_lines=12, elem_id="system-prompt"
    )
    recap = gr.Checkbox(label=t("recap"), elem_id="recap")
    with gr.Group():
        sampling = _sampling_controls()
    reset = gr.Button(t("reset"), size="sm", elem_id="reset-sampling")

    preset.input(None, [preset], None, js="(name) => parley.choosePreset(name)")
    system_prompt.input(None, [system_prompt], None, js="(text) => parley.setSystemPrompt(text)")
    recap.input(None, [recap], None, js="(recap) => parley.setRecap(recap)")
    for control in sampling:
        control.input(None, sampling, None, js="(...values) => parley.setSampling(values)")
    reset.click(None, None, None, js="() => parley.resetSampling()")
    opened.opened(None, None, [preset, system_prompt, recap, *sampling], js="() => parley.chatFormValues()")


def _sampling_controls() -> list[gr.Slider | gr.Number]:
    """Return the controls of SAMPLING_FIELDS of chat/ui/static/forms.js, in the same order."""
    return [
        _slider("temperature", 0, 2, 0.05),
        _slider("top_p", 0.05, 1, 0.05),
        _slider("top_k", 0, 200, 1),
        _slider("min_p", 0, 0.5, 0.01),
        _slider("repetition_penalty", 1, 2, 0.05),
        _slider("max_tokens", 16, 4096, 16),
        gr.Number(None, precision=0, minimum=0, label=t("seed"), info=t("seed_info"), elem_id="seed"),
    ]


def _slider(name: str, low: float, high: float, step: float) -> gr.Slider:
    return gr.Slider(
        low, high, low, step=step, label=t(name), info=t(f"{name}_info"), elem_id=name.replace("_", "-"), buttons=[]
    )
