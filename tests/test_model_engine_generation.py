"""The caller's side of a reply: iterated by a thread, or taken from by whoever hears of more."""

from model.engine.generation import Generation, Piece, Usage

USAGE = Usage(1, 0, 2, 1.0, 2.0)
WORDS = [Piece("a", (3,)), Piece("b", (4,))]


def test_what_is_there_is_taken_without_waiting() -> None:
    generation = Generation(1, 0)
    assert generation.take() == ([], False)
    for piece in WORDS:
        generation.emit(piece)
    assert generation.take() == (WORDS, False)
    assert generation.take() == ([], False)


def test_the_last_pieces_come_with_the_end_and_the_end_stays() -> None:
    generation = Generation(1, 0)
    generation.emit(WORDS[0])
    generation.finish("stop", USAGE)
    assert generation.take() == (WORDS[:1], True)
    assert generation.take() == ([], True)
    assert list(generation) == []


def test_a_listener_hears_of_each_piece_and_of_the_end() -> None:
    generation, heard = Generation(1, 0), []
    generation.listen(lambda: heard.append(generation.take()))
    for piece in WORDS:
        generation.emit(piece)
    generation.finish("stop", USAGE)
    assert heard == [(WORDS[:1], False), (WORDS[1:], False), ([], True)]
