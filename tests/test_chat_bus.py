"""Those who listen hear of their own conversations, and of nobody else's."""

from chat.bus import Bus


def test_a_listener_hears_of_the_changes_of_its_owner_alone() -> None:
    bus, heard = Bus(), []
    with bus.listening("ada", heard.append):
        bus.publish("ada", "one")
        bus.publish("eve", "two")
    assert heard == ["one"]


def test_several_listeners_all_hear() -> None:
    bus, heard = Bus(), []
    with bus.listening("ada", heard.append), bus.listening("ada", heard.append):
        bus.publish("ada", "one")
    assert heard == ["one", "one"]


def test_whoever_has_left_hears_nothing_more() -> None:
    bus, heard = Bus(), []
    with bus.listening("ada", lambda _: None):
        with bus.listening("ada", heard.append):
            pass
        bus.publish("ada", "one")
    assert heard == []


def test_a_listener_may_leave_while_it_is_called() -> None:
    bus, heard = Bus(), []
    listening = bus.listening("ada", lambda _: listening.__exit__(None, None, None))
    with bus.listening("ada", heard.append):
        listening.__enter__()
        bus.publish("ada", "one")
        bus.publish("ada", "two")
    assert heard == ["one", "two"]


def test_the_end_reaches_all_owners_and_those_who_come_later() -> None:
    bus, heard = Bus(), []
    with bus.listening("ada", heard.append), bus.listening("eve", heard.append):
        bus.close()
    with bus.listening("ada", heard.append):
        pass
    assert heard == [None, None, None]


def test_a_version_changes_with_the_owners_conversations_alone() -> None:
    bus = Bus()
    before = bus.version("ada")
    bus.publish("eve", "one")
    assert bus.version("ada") == before
    bus.publish("ada", "two")
    assert bus.version("ada") != before
    assert Bus().version("ada") != Bus().version("ada")
