"""What a visitor takes along of a conversation: what was said, and nothing else."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

TranscriptFormat = Literal["json", "markdown", "text"]

SUFFIXES: dict[TranscriptFormat, str] = {"json": ".json", "markdown": ".md", "text": ".txt"}
_SPEAKERS = {"user": "You", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Line:
    """What somebody said."""

    role: str
    content: str
    created_at: datetime


def write_transcript(chosen: TranscriptFormat, title: str, lines: Sequence[Line]) -> str:
    """Return a conversation as a text of a format."""
    if chosen == "json":
        messages = [{**asdict(line), "created_at": line.created_at.isoformat()} for line in lines]
        return json.dumps({"title": title, "messages": messages}, ensure_ascii=False, indent=2) + "\n"
    heading, speaker = ("# {}\n", "\n## {}, {}\n\n{}\n") if chosen == "markdown" else ("{}\n", "\n{}, {}:\n{}\n")
    said = (speaker.format(_SPEAKERS[line.role], f"{line.created_at:%Y-%m-%d %H:%M}", line.content) for line in lines)
    return "".join([heading.format(title), *said])
