"""Titles are short, of one line, and made of the words of the first exchange."""

import unicodedata

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from chat.titles import MAX_READ, TITLE_CHARS, keyword_title, make_title


@pytest.mark.parametrize(
    ("question", "answer", "title"),
    [
        ("What is the capital of France?", "The capital of France is Paris.", "capital of France"),
        ("How do I boil an egg?", "Put the egg into boiling water.", "boil an egg"),
        ("Explain the difference between TCP and UDP", "TCP has connections.", "difference between TCP and UDP"),
        ("Who wrote War and Peace?", "Leo Tolstoy did.", "wrote War and Peace"),
        (
            "Can you help me write a Python script that renames all my photos by date?",
            "This Python script renames photos by their date.",
            "Python script that renames photos date",
        ),
        ("Quelle est la capitale de l'Australie ?", "C'est Canberra.", "capitale de l'Australie"),
        ("¿Cuál es la mejor receta de tortilla?", "La receta lleva huevos.", "mejor receta de tortilla"),
        ("Kannst du mir erklären, wie ein Motor läuft?", "Ein Motor läuft mit Strom.", "erklären Motor läuft"),
        ("Что такое квантовая запутанность?", "Это явление.", "квантовая запутанность"),
        ("ما هي عاصمة مصر؟", "القاهرة.", "عاصمة مصر"),
        ("भारत की राजधानी क्या है?", "नई दिल्ली।", "भारत की राजधानी क्या"),
        ("한국의 수도는 어디인가요?", "서울입니다.", "한국의 수도는 어디인가요"),
        ("如何用Python读取CSV文件？", "用csv模块。", "如何用Python读取CSV文件"),
        ("フランスの首都はどこですか？", "パリです。", "フランスの首都はどこですか"),
        ("เมืองหลวงของฝรั่งเศสคืออะไร", "ปารีส", "เมืองหลวงของฝรั่งเศสคืออะไร"),
    ],
)
def test_a_title_is_made_of_the_keywords_of_a_question(question: str, answer: str, title: str) -> None:
    assert keyword_title(question, answer) == title


def test_the_answer_tells_which_words_matter() -> None:
    question = "We travelled through Norway, Sweden, Denmark, Finland, Iceland and Greenland; then Estonia."
    assert "Estonia" in (keyword_title(question, "Estonia is worth a visit.") or "")
    assert "Estonia" not in (keyword_title(question, "Norway is worth a visit.") or "")


def test_a_name_matters_more_than_a_longer_word() -> None:
    title = keyword_title("We bought tables, chairs, plates, spoons and knives of Peru.", "How nice!")
    assert title is not None
    assert title.endswith(" Peru")


@given(question=st.text(), answer=st.text())
@example("a" * 100, "")
@example("\N{WOMAN}\u200d\N{ROCKET}" * 30, "")
@example("e" + "\u0301" * 100, "")
@example("\u202eevil\u202c \x07bell\x1b[31m", "")
def test_every_title_is_one_short_line_without_control_characters(question: str, answer: str) -> None:
    title = keyword_title(question, answer)
    if title is None:
        return
    assert 0 < len(title) <= TITLE_CHARS
    assert title == title.strip()
    assert not {unicodedata.category(char) for char in title} & {"Cc", "Cs", "Zl", "Zp"}
    assert not regex.search(r"[\u202a-\u202e\u2066-\u2069]", title)


@given(question=st.text("aé 你😀\n.ü5", max_size=60), answer=st.text("aé 你\n.ü5", max_size=60))
def test_the_words_of_a_title_stand_in_the_text_in_this_order(question: str, answer: str) -> None:
    source = question if regex.search(r"[^ \n.]", question) else answer
    words = (keyword_title(question, answer) or "").removesuffix("…").split()
    assert regex.search(".*".join(map(regex.escape, words)), source, regex.DOTALL)


@pytest.mark.parametrize("question", ["", " \n", "?!", "…", "\x00\x01", "\u200b\u200d\ufe0f"])
def test_there_is_no_title_where_there_is_no_word(question: str) -> None:
    assert keyword_title(question, "?") is None


def test_a_question_without_words_takes_its_title_from_the_answer() -> None:
    assert keyword_title("???", "Elephants are here.") == "Elephants"


def test_a_question_of_small_words_is_its_own_title() -> None:
    assert keyword_title("how are you?", "I am fine, thank you.") == "how are you"


@pytest.mark.parametrize("emoji", ["🎉", "👩‍🚀", "🇫🇷", "👍🏽", "❤️", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"])
def test_emoji_survive_whole(emoji: str) -> None:
    assert keyword_title(emoji, "") == emoji
    assert keyword_title(f"birthday party {emoji}", "") == f"birthday party {emoji}"


def test_a_cut_breaks_no_character_that_is_made_of_several() -> None:
    letter = "é".encode().decode() + "\u0323"
    assert keyword_title(letter * 30, "") == letter * ((TITLE_CHARS - 1) // len(letter)) + "…"


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    assert keyword_title(f"elephants {'a ' * MAX_READ} tigers", "") == "elephants"


def test_short_first_message_is_its_own_title() -> None:
    assert make_title("  Hello\n there ") == "Hello there"


def test_long_first_message_is_cut_at_a_word() -> None:
    title = make_title("Please tell me everything about the history of Rome, at once")
    assert title == "Please tell me everything about the…"
    assert len(title) <= TITLE_CHARS + 1


def test_the_title_of_a_first_message_shows_no_control_characters_and_cuts_no_character() -> None:
    assert make_title("a\u202eb\x07c") == "a b c"
    family = "👨‍👩‍👧‍👦"
    assert make_title(family * 10).rstrip("…").replace(family, "") == ""
