"""The form of what is kept: export, import, backup, and what is kept no longer."""

import html
from datetime import timedelta
from typing import get_args

import gradio as gr

from chat.cli.progress import progress_bar
from chat.errors import ChatError
from chat.formats.table import FORMATS
from chat.settings import Settings
from chat.ui.element import element
from chat.ui.texts import t
from chat.workspace import Workspace
from storage.backup import back_up
from storage.erasure import Rule
from storage.errors import StorageError
from storage.tables import Channel, utc_now

MAX_SHOWN = 20  # conversations that a dry run names


class DataForm:
    """The handlers of one owner's form, and its layout."""

    def __init__(self, workspace: Workspace, settings: Settings, owner_id: str) -> None:
        self._workspace = workspace
        self._settings = settings
        self._owner_id = owner_id

    def build(self) -> None:
        """Lay the form out and connect it; exports and imports go through chat/ui/static/forms.js."""
        with gr.Accordion(t("export"), open=True):
            formats = [(f"{chosen.name}: {chosen.description}", chosen.name) for chosen in FORMATS.values()]
            chosen = gr.Dropdown(formats, value="parley", label=t("format"), elem_id="export-format")
            redact = gr.Checkbox(label=t("redact"), info=t("redact_info"), elem_id="export-redact")
            zipped = gr.Checkbox(label=t("zip"), elem_id="export-zip")
            element("parley-export")
        gr.on(
            [chosen.change, redact.change, zipped.change],
            None,
            [chosen, redact, zipped],
            None,
            js="(...values) => parley.setExport(values)",
        )
        with gr.Accordion(t("import"), open=False):
            element("parley-import")
        with gr.Accordion(t("backup"), open=False):
            back_up_now = gr.Button(t("back_up"), elem_id="backup")
            backed_up = gr.HTML(elem_id="backup-result")
        back_up_now.click(self.back_up, None, backed_up, api_visibility="private")
        with gr.Accordion(t("retention"), open=False):
            self._build_retention()

    def _build_retention(self) -> None:
        days = gr.Number(365, precision=0, minimum=1, maximum=36_500, label=t("older_than"), elem_id="expiry-days")
        channel = gr.Dropdown(["", *get_args(Channel)], value="", label=t("channel"), elem_id="expiry-channel")
        archived = gr.Checkbox(label=t("only_archived"), elem_id="expiry-archived")
        with gr.Row():
            dry_run = gr.Button(t("dry_run"), size="sm", elem_id="expiry-dry-run")
            erase = gr.Button(t("erase"), size="sm", variant="stop", elem_id="expiry-erase", interactive=False)
        result = gr.HTML(elem_id="expiry-result")
        rule = [days, channel, archived]
        dry_run.click(self.show_expired, rule, [result, erase], api_visibility="private")
        erase.click(self.erase_expired, rule, [result, erase], api_visibility="private")
        # what is erased is what has just been shown
        gr.on(
            [days.input, channel.input, archived.input], lambda: gr.Button(interactive=False), None, erase, queue=False
        )

    def back_up(self) -> str:
        """Copy the database, and say where to."""
        try:
            with progress_bar("Copying", "pages") as progress:
                path = back_up(self._settings.data / "parley.db", progress)
        except (StorageError, OSError) as error:
            return _alert(str(error))
        return _status(f"{path} ({path.stat().st_size / 1e6:,.1f} MB)")

    def show_expired(self, days: float | None, channel: str, archived: bool) -> tuple[str, gr.Button]:
        """Say what would be erased, and let it be erased then."""
        try:
            expired = self._workspace.erasure.expired(self._owner_id, _rule(days, channel, archived))
        except (ChatError, StorageError, ValueError) as error:
            return _alert(str(error)), gr.Button(interactive=False)
        titles = [conversation.title or "Untitled" for conversation in expired[:MAX_SHOWN]]
        rest = [f"… {len(expired) - MAX_SHOWN:,} more"] if len(expired) > MAX_SHOWN else []
        listed = "".join(f"<li>{html.escape(title)}</li>" for title in (*titles, *rest))
        text = f"{len(expired):,} conversations would be erased. Pinned ones stay."
        return _status(text) + f"<ul>{listed}</ul>", gr.Button(interactive=bool(expired))

    def erase_expired(self, days: float | None, channel: str, archived: bool) -> tuple[str, gr.Button]:
        """Erase what has been shown, and say what that was."""
        try:
            receipt = self._workspace.erasure.erase_expired(self._owner_id, _rule(days, channel, archived))
        except (ChatError, StorageError, ValueError) as error:
            return _alert(str(error)), gr.Button(interactive=False)
        for conversation_id in receipt.conversation_ids:
            self._workspace.bus.publish(self._owner_id, conversation_id)
        text = f"Erased: {len(receipt.conversation_ids):,} conversations, {receipt.n_messages:,} messages."
        copies = "".join(f"<li>Not erased in {html.escape(str(copy.path))}</li>" for copy in receipt.copies)
        return _status(text) + f"<ul>{copies}</ul>", gr.Button(interactive=False)


def _rule(days: float | None, channel: str, archived: bool) -> Rule:
    """Return the rule that a form makes; raises ValueError."""
    if days is None or not 1 <= days <= 36_500:
        raise ValueError(f"days: expected a whole number from 1 to 36,500, got {days}")
    return Rule(utc_now() - timedelta(days=int(days)), channel or None, archived or None)  # type: ignore[arg-type]


def _alert(text: str) -> str:
    return f'<p role="alert" class="parley-problem">{html.escape(text)}</p>'


def _status(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'
