"""All formats, by the names under which they are asked for. Their modules are loaded when they are used."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from chat.errors import UnknownFormat

if TYPE_CHECKING:
    from chat.formats.archive import ArchivedConversation


@dataclass(frozen=True, slots=True)
class Format:
    """What conversations are exported to; the module of its name in this package writes it."""

    name: str
    suffix: str
    description: str

    def write(self, conversations: "Iterable[ArchivedConversation]") -> Iterator[bytes]:
        """Yield a file's content, piece by piece; text is UTF-8."""
        for piece in import_module(f"chat.formats.{self.name}").write(conversations):
            yield piece.encode() if isinstance(piece, str) else piece


FORMATS: Mapping[str, Format] = {
    chosen.name: chosen
    for chosen in (
        Format("parley", ".jsonl", "everything, to be imported again: JSON Lines, a conversation in each"),
        Format("chatgpt", ".json", "all branches, as in the data export of ChatGPT"),
        Format("open_webui", ".json", "all branches and ratings, for Open WebUI's import"),
        Format("sharegpt", ".json", "the shown branches, as the training data that ShareGPT files are"),
        Format("openai", ".jsonl", "the shown branches, for OpenAI's fine-tuning; replies rated -1 get the weight 0"),
        Format(
            "preferences_openai", ".jsonl", "pairs of a better and a worse reply, for OpenAI's preference fine-tuning"
        ),
        Format("preferences_trl", ".jsonl", "pairs of a better and a worse reply, for TRL's DPOTrainer"),
        Format("html", ".html", "all branches on one page, to read offline; to be imported again"),
        Format("markdown", ".md", "the shown branches, to read; with a YAML header; to be imported again"),
        Format("text", ".txt", "the shown branches, as plain text"),
        Format("csv", ".csv", "a row for each message of all branches, safe to open in a spreadsheet"),
        Format("parquet", ".parquet", "a row for each message of all branches, with types, for analysis"),
    )
}


def find_format(name: str) -> Format:
    """Return the format of a name; raises UnknownFormat."""
    if name not in FORMATS:
        raise UnknownFormat(name, list(FORMATS))
    return FORMATS[name]
