"""What names or unlocks somebody leaves a conversation; what only looks so stays; and no text takes long."""

import json
import re
import time

import pytest
from archives import conversations
from hypothesis import given
from hypothesis import strategies as st

from chat.formats.archive import ArchivedConversation, check
from chat.redaction import Counts, describe_counts, redact, redact_text
from chat.titles import keyword_title, make_title
from storage.tables import TitleSource

SECRETS = [
    ("Write to ada.lovelace+x@mail.example.com.", "Write to [e-mail]."),
    ("<bob@example.org>, 'eve@example.co.uk'", "<[e-mail]>, '[e-mail]'"),
    ("mailto:jürgen@müller.de", "mailto:[e-mail]"),
    ("https://user:pass@host.example.com/", "https://user:[secret]@host.example.com/"),
    (
        "postgres://me:hunter2@db:5432/x, redis://:p@ss:w0rd@10.0.0.12",
        "postgres://me:[secret]@db:5432/x, redis://:[secret]@[ip]",
    ),
    ("AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMI/K7MDENG+bPx", "AWS_SECRET_ACCESS_KEY=[secret]"),
    ("password: hunter2Secret! and more", "password: [secret] and more"),
    ("api_key = 'abcdefgh-ijkl'", "api_key = '[secret]'"),
    ('{"dbPassword": "correct-horse", "n": 1}', '{"dbPassword": "[secret]", "n": 1}'),
    (r"{\"client_secret\":\"correct-horse\"}", r"{\"client_secret\":\"[secret]\"}"),
    ("DB_PASS=hunter2Secret!\n**Passwort:** `abcdefgh`", "DB_PASS=[secret]\n**Passwort:** `[secret]`"),
    ("me@example.com.2 of them", "[e-mail].2 of them"),
    ("Call +49 (0)30 1234-5678 or +14155550123!", "Call [phone] or [phone]!"),
    ("(415) 555-0123, 415.555.0123, 1-415-555-0123", "[phone], [phone], [phone]"),
    ("030 12345678; 0171/2345678; 01 23 45 67 89; 020 7946 0958", "[phone]; [phone]; [phone]; [phone]"),
    ("0049 30 1234567, 0033 6 12 34 56 78", "[phone], [phone]"),
    ("06.12.34.56.78, 06 12 34 56 78. 415 555 0123", "[phone], [phone]. [phone]"),
    ("+49\u00a030\u00a01234567 or 030\u202f12345678", "[phone] or [phone]"),
    ("\u0660\u0663\u0660 \u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668", "[phone]"),
    ("Call me\u2014030 1234567\u2014or 0171\u201323456789", "Call me\u2014[phone]\u2014or [phone]"),
    ("4111\u00a01111\u00a01111\u00a01111, 4111\u20131111\u20131111\u20131111", "[card], [card]"),
    ("\u00e9\u3000\u0664111 1111 1111 1111\u00a0\u2013", "\u00e9\u3000[card]\u00a0\u2013"),
    ("4111 1111 1111 1111", "[card]"),
    ("5555-5555-5555-4444, 378282246310005, 3782 822463 10005.", "[card], [card], [card]."),
    ("from 203.0.113.7:443 and 192.168.178.20", "from [ip]:443 and [ip]"),
    ("192.168.10.1-192.168.10.99, 10.0.0.10\u201310.0.0.20, 10.0.0.10-20", "[ip]-[ip], [ip]\u2013[ip], [ip]-20"),
    ("http://[2001:db8::1]:80/ and fe80::1ff:fe23:4567:890a%eth0", "http://[[ip]]:80/ and [ip]%eth0"),
    ("2001:4860:4860::8888: unreachable", "[ip]: unreachable"),
    ("2001:0db8:85a3:0000:0000:8a2e:0370:7334.", "[ip]."),
    ("::ffff:203.0.113.7", "::ffff:[ip]"),
    ("OPENAI_API_KEY=sk-proj-" + "aB3" * 16, "OPENAI_API_KEY=[key]"),
    ("'sk-ant-api03-" + "x9_-" * 20 + "'", "'[key]'"),
    ("ghp_" + "a1B2" * 9 + " github_pat_" + "a1_B" * 10, "[key] [key]"),
    ("AKIA" + "ABCDEFGH" * 2 + ", AIza" + "aB3_-" * 7, "[key], [key]"),
    ("xox" + "b-123456789012-abcdefABCDEF", "[key]"),
    ("hf_" + "aBcDeFgHiJ" * 3 + "abcd", "[key]"),
    ("sk_" + "live_" + "a1B2c3D4e5", "[key]"),
    ("npm_" + "a1B2c3" * 6 + " glpat-" + "a1_-B" * 4 + " gsk_" + "a1B2" * 13, "[key] [key] [key]"),
    ("123456789:" + "aB3_-" * 7, "[key]"),
    ("Authorization: Bearer abc.DEF-123_456~789", "Authorization: Bearer [key]"),
    ("authorization: Basic dXNlcjpwYXNzd29yZDEyMw==", "authorization: Basic [key]"),
    ("token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl;", "token=[key];"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\nab+/=\n-----END RSA PRIVATE KEY-----\nand", "[key]\nand"),
    ("-----BEGIN PRIVATE KEY-----\n" + "MIIBaaaaaaaaaaaaaaaa\n" * 3 + "that was it", "[key]\nthat was it"),
    (r"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----", "[key]"),
]


@pytest.mark.parametrize(("text", "redacted"), SECRETS, ids=lambda text: text[:20])
def test_secrets_become_their_kinds(text: str, redacted: str) -> None:
    assert redact_text(text, Counts()) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "npm install react@18.2.0 @types/node@20.1.0-rc",
        "@app.get('/x') and a @ b, user@localhost",
        "2026-01-31 10:20:30, 31.01.2026, 01/02/2026, 01-02-2026 10:20, 2026-01-31T10:20:30.123456+02:00",
        "v1.2.3.4, version 10.0.19.1, pip install x==1.12.3.4, image-1.12.3.4.tar.gz, section 1.2.3.4",
        "127.0.0.1, 0.0.0.0:80, 255.255.255.0, ::1, 999.12.3.4",
        "x[::2], x[1::2], x[1000::2], std::vector<int>, a::b, cafe::add, f :: Int",
        "12:30:45, 00:1a:2b:3c:4d:5e",
        "1700000000, 1700000000123, 1234567890123456789, 3.14159265358979, +1.2345678901, -5",
        "+0200, a+12345678, C++11, 12 + 34567890",
        "4111 1111 1111 1112 is no card, 6 x 7 = 42",
        "123e4567-e89b-12d3-a456-426614174000, 9f86d081884c7d659a2feaa0c55ad015",
        "01 02 03 04 05 06 07 08 09 0a 0b, 00 11 22 33 44 55 66 77 88 99",
        "01 02 03 04 05 06, matrix 011 022 033 044, 200 300 4000",
        "file@2x.png, icon@1.5x.webp",
        "DE89 3704 0044 0532 0130 00, DE89 0704 0044 0532 0130 00, NL91 ABNA 0417 1643 00",
        "token = get_token2(), password: str, password: Optional[str2], token = tokens[i + 12345], secret = a.b.secret",
        "api_key=${API_KEY_2}, token: {{ token_2 }}, <token=<your_token_1>, compass: 12345678, max_tokens=12345678",
        "if token == expected_token: password = input_text, http://host:8080/a@b",
        "+2026-01-31 10:20 in a diff",
        "sk-circle-fade-dot-animation, task-1234, risk-adjusted-2026-returns-of-all",
        "bearer internationalization, the bearer of this letter",
        "A file begins with -----BEGIN CERTIFICATE----- or with -----BEGIN PRIVATE KEY",
        "eyJ, sk-, ghp_x, AKIA, hf_hub_download(repo)",
        "for i in range(0, 100): total += 10.5 * (i - 200)",
    ],
)
def test_what_looks_alike_stays(text: str) -> None:
    counts = Counts()
    assert redact_text(text, counts) == text
    assert not counts


@pytest.mark.parametrize("title_source", ["keywords", "first_message"])
@pytest.mark.parametrize(("text", "redacted"), SECRETS, ids=lambda text: text[:20])
def test_no_piece_of_a_secret_is_in_the_title(text: str, redacted: str, title_source: TitleSource) -> None:
    title = keyword_title(text, text) if title_source == "keywords" else make_title(text)
    conversation = make_conversation(text, title=title, title_source=title_source)
    written = json.dumps(redact(conversation, Counts()), ensure_ascii=False)
    kept = re.escape(redacted)
    found = re.fullmatch(re.sub(r"\\\[(?:e\\-mail|phone|card|ip|key|secret)\\\]", "(.+?)", kept), text, re.DOTALL)
    assert found
    for secret in found.groups():
        assert not [secret[i : i + 6] for i in range(len(secret) - 5) if secret[i : i + 6] in written]


def test_a_title_is_made_anew_of_the_redacted_exchange() -> None:
    text = "Please write a letter to bob@example.com about gardening"
    conversation = make_conversation(text, title="letter bob@example.com gardening", title_source="keywords")
    assert redact(conversation, Counts())["title"] == keyword_title(text.replace("bob@example.com", "[e-mail]"), "")
    conversation["title_source"] = "first_message"
    assert redact(conversation, Counts())["title"] == "Please write a letter to [e-mail] about…"
    conversation["title_source"] = "user"
    assert redact(conversation, Counts())["title"] == "letter [e-mail] gardening"


def test_all_texts_of_a_conversation_are_redacted_and_token_ids_go() -> None:
    mail = "bob@example.com"
    counts = Counts()
    redacted = redact(make_conversation(mail, title=mail, title_source=None), counts)
    assert mail not in json.dumps(redacted)
    assert redacted["messages"][0]["content"] == "[e-mail]"
    assert [redacted["messages"][0][name] for name in ("token_ids", "prompt_shared", "prompt_ids")] == [None] * 3
    assert describe_counts(counts) == "Redacted: 9 e-mail."


def make_conversation(text: str, *, title: str | None, title_source: TitleSource | None) -> ArchivedConversation:
    """A conversation of one message; an e-mail address is wherever texts are."""
    mail = "bob@example.com"
    message = {
        **{"id": "m", "parent_id": None, "seq": 1, "role": "user", "content": text, "origin": "written"},
        **{"origin_id": None, "status": "error", "finish_reason": None, "error": mail, "model": "m"},
        **{"model_digest": None, "params": {"stop": [mail, {"a": mail}]}, "seed": 1, "token_ids": [1]},
        **{"prompt_shared": 1, "prompt_ids": [1], "ledger": {"recap": mail}, "prompt_tokens": 1},
        **dict.fromkeys(("cached_tokens", "completion_tokens", "ttft_ms", "duration_ms")),
        "pinned": False,
        "created_at": "2026-01-01T00:00:00.000000Z",
        "feedback": {
            "rating": 1,
            "comment": mail,
            "created_at": "2026-01-01T00:00:00.000000Z",
            "updated_at": "2026-01-01T00:00:00.000000Z",
        },
    }
    conversation = {
        **{
            "id": "c",
            "channel": "ui",
            "site_id": None,
            "visitor_id": None,
            "visitor_name": mail,
            "title": title,
            "title_source": title_source,
            "preset": None,
        },
        **{"system_prompt": mail, "recap": False, "params": {mail: 1}, "model": "m", "active_leaf_id": "m"},
        **{"pinned": False, "archived": False, "messages": [message]},
        **dict.fromkeys(("created_at", "updated_at"), "2026-01-01T00:00:00.000000Z"),
    }
    return check(conversation, "c")


@given(conversation=conversations())
def test_what_is_redacted_is_a_conversation_and_has_nothing_left_to_redact(conversation: ArchivedConversation) -> None:
    redacted = redact(conversation, Counts())
    assert check(redacted, "conversation") == redacted
    counts = Counts()
    assert redact(redacted, counts) == redacted
    assert describe_counts(counts) == "Redacted: nothing."


PIECES = st.sampled_from([text for text, _ in SECRETS] + [*"@.:-+/ ()0159aeJ[]\n=_", "::", "sk-", "eyJ", "bearer "])


@given(text=st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_no_mixture_of_secrets_and_signs_makes_it_stumble(text: str) -> None:
    counts = Counts()
    redacted = redact_text(text, counts)
    assert {kind: redacted.count(f"[{kind}]") for kind in counts} == counts


@pytest.mark.parametrize(
    "unit",
    [
        *("a", "1", "-", "@", "a@", "a.", "a@a.", "1.", "1.1.1.", "0 ", "01 ", "01 23 ", "1 ", "+1", "+", "+1 ", "("),
        *(
            "4111 ",
            "4111-",
            "0-",
            "0/",
            "a:",
            ":",
            "abcd:",
            "0:",
            "-----",
            "-----BEGIN PRIVATE KEY-----",
            "eyJ",
            "eyJ.",
        ),
        *(
            "-----BEGIN A PRIVATE KEY-----\n" + "a" * 20,
            "eyJaaaaaaaaaaaa.",
            "sk-",
            "sk-a",
            "sk_live_",
            "bearer ",
            "SG.",
        ),
        *("bearer a", "authorization: ", "xoxb-", "AKIA", "AIza", "12345678:", "\\n", " \n", "%40", "a@b.c", "é", "٣"),
    ],
)
def test_a_long_text_of_anything_takes_less_than_seconds(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    redact_text(text, Counts())
    redact_text(text + "!", Counts())
    assert time.process_time() - started < 10  # less than 1 here; by the square of the length it would be minutes
