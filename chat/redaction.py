"""What names or unlocks somebody is taken out of conversations: e-mail addresses, phone and card numbers, IP addresses,
keys, tokens and passwords.

Each becomes its kind in brackets. The patterns know shapes and nothing else: a phone number without a country's or an
area's prefix, or a key of a maker that is not listed and that no label announces, stays. What looks alike in code stays
as well: dates, versions, slices, loopback addresses, numbers of orders. A text of n characters takes time in
proportion to n, whatever is in it: what a pattern repeats without bound it never gives back, and it begins only where a
run of such characters does.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from chat.formats.archive import ArchivedConversation, ArchivedMessage
from chat.titles import keyword_title, make_title

Counts = Counter[str]  # how often something was taken out, by its kind


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of secrets and how one is known; of a match with a group `secret`, only that is one."""

    kind: str
    pattern: re.Pattern[str]
    accepts: Callable[[str], bool] = bool


class _PlainSigns(dict[int, str]):
    """What characters are read as: spaces, hyphens and digits of all scripts as those of ASCII."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Zs":
            plain = " "
        elif category == "Pd" and character not in "\u2014\u2015":  # those stand between sentences
            plain = "-"
        else:
            plain = str(unicodedata.decimal(character, character))
        self[code] = plain
        return plain


_PLAIN_SIGNS = _PlainSigns()

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z\d ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    # up to its end, or to where a reply was cut off
    r"(?:[^-]*+(?:-(?!----)[^-]*+)*+-----END [A-Z\d ]{0,60}-----|(?:(?:\s|\\[rn])*+[A-Za-z\d+/=]{16,}+)*+)"
)

# From their makers' documentation, and from the tables of secret scanners (gitleaks, GitHub)
_MAKERS_KEY = re.compile(
    r"(?<![\w-])(?:"
    r"eyJ[\w-]{10,}+(?:\.[\w-]*+){2,4}"  # JSON Web Tokens: signed ones have 3 parts, encrypted ones 5
    r"|sk-(?=[A-Za-z_-]{0,40}\d)[\w-]{20,}+"  # OpenAI, Anthropic, OpenRouter; a name in a style sheet has no digit
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z\d]{10,}+|whsec_[A-Za-z\d+/]{20,}+=*+"  # Stripe
    r"|gh[pousr]_[A-Za-z\d]{30,}+|github_pat_\w{30,}+|glpat-[\w-]{20,}+"  # GitHub, GitLab
    r"|(?:AKIA|ASIA)[A-Z2-7]{16}(?!\w)"  # Amazon
    r"|AIza[\w-]{35}(?![\w-])|ya29\.[\w-]{20,}+|GOCSPX-[\w-]{20,}+"  # Google
    r"|xox[abeoprs]-[\w-]{10,}+|xapp-\d-[\w-]{10,}+"  # Slack
    r"|hf_[A-Za-z\d]{30,}+|r8_[A-Za-z\d]{30,}+|gsk_[A-Za-z\d]{40,}+|xai-[A-Za-z\d]{40,}+"  # Hugging Face, Groq …
    r"|pplx-[A-Za-z\d]{40,}+|nvapi-[\w-]{40,}+"  # Perplexity, NVIDIA
    r"|npm_[A-Za-z\d]{36}(?!\w)|pypi-[\w-]{50,}+|do[opr]_v1_[a-f\d]{64}(?!\w)"  # npm, PyPI, DigitalOcean
    r"|SG\.[\w-]{16,32}\.[\w-]{16,64}(?![\w-])|SK[a-f\d]{32}(?!\w)|\d{8,10}:[\w-]{35}(?![\w-])"  # SendGrid, Twilio …
    r")"
)

_BEARER = re.compile(
    r"(?<!\w)(?i:bearer|authorization:\s{0,4}(?:basic|token))\s{1,4}"
    r"(?P<secret>(?=[A-Za-z._~+/=-]{0,40}\d)[\w.~+/=-]{16,}+)"  # a long word has no digit
)

_VALUE = r"(?:(?!\[(?:key|secret)\]|\\[\"'`])[^\s\"'`])"  # a character of a secret, and of none that is known already
_LABELLED = re.compile(
    r"(?i:(?:(?<![^\W_])pass|pass(?:w(?:or[dt]|d)|phrase)|secret(?:[_-]?(?:access[_-]?)?key)?|token|api[_-]?key))"
    r"[\\\"'`*]{0,2}\s{0,4}[:=]{1,2}[\s*]{0,4}[\\\"'`*]{0,2}"
    r"(?![<{]|\$[{(]|[^\W\d][\w.]*+[(\[])"  # not of templates, calls and subscripts
    rf"(?P<secret>(?:(?<=[\"'`])|(?=[^\s\d\"'`]{{0,60}}?(?:\d|[!#$%&@^]\w))){_VALUE}{{8,}}+)"  # nor names, unquoted
)
_URL_PASSWORD = re.compile(rf"(?<=\w)://[^\s/@:\"'`]{{0,100}}:(?P<secret>(?:(?!/){_VALUE}){{1,200}})@(?=[\w\[])")

# Of a name such as package@1.2.3 the last part is no domain of letters; file@2x.png is a picture for dense screens.
_E_MAIL = re.compile(
    r"(?<![\w.%+-])[\w.%+-]++@(?![\d.]{1,3}x\.)[\w-]++(?:\.[\w-]++){0,20}\.(?:[^\W\d_]{2,}+|xn--[\w-]++)(?![\w-])"
)

_CARD = re.compile(
    r"(?<![\w.])(?:\d{14,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5})(?!\w|[.-]\d)"
)
# Visa, Mastercard, American Express, Discover, Diners Club, JCB, UnionPay, Maestro: prefixes and lengths (ISO/IEC 7812)
_BRAND = re.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|4[4-9]\d|5\d\d)\d{12}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}|62\d{14,17}|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{10,15}"
)

_IP_V4 = re.compile(
    r"(?<![\w.])(?:(?<!-)|(?<=\.\d-)|(?<=\.\d\d-)|(?<=\.\d\d\d-))"  # alone, or the end of a range
    r"(?<![=~<>^!]=)(?<![Vv]ersion )(?:\d{1,3}\.){3}\d{1,3}"  # not of versions
    r"(?!\w|\.\w|-(?!(?:\d{1,3}\.){3}\d|\d{2,3}(?![\w.-])))"
)
# An address in use begins with four digits of 16; slices (1::2) and names (a::b) do not.
_IP_V6 = re.compile(r"(?<![\w:.])(?i:[\da-f]{4}(?::[\da-f]{0,4}){2,7})(?<!\w:)(?!\w|::|:\w)")

_NOT_IN_IBAN = r"(?<!\d{4} )(?<![A-Z]{2}\d\d )(?<![A-Z]{2}\d\d [A-Z]{4} )"
_PHONE = re.compile(
    r"(?<![\w+])\+(?!\d{1,20}\.\d{1,20}(?![\d.])|\d{4}-\d\d-)[1-9](?:[ ()./-]{0,3}\d){7,14}(?!\w)"  # not +1.2345678
    r"|(?<![\w./:-])(?<!\d )(?:0|0033[ .-]?)[1-9](?:[ .-]\d\d){4}(?![\w-]|[. ]\d)"  # France
    rf"|(?<![\w.+-]){_NOT_IN_IBAN}00[1-9]\d{{0,2}}(?:[ ()/.-]{{1,3}}\d{{2,14}}){{1,6}}(?!\w)"
    r"|(?<![\w.-])(?:1[ .-]\(?[2-9]\d\d\)?[ .-]|\([2-9]\d\d\) ?|[2-9]\d\d[.-])\d{3}[ .-]\d{4}(?![\w-]|\.\d)"  # USA …
    r"|(?<![\w.-])(?<!\d )[2-9](?!00)\d\d [2-9](?!00)\d\d[ -]\d{4}(?![\w-]|[. ]\d)"  # and no round numbers in a row
    rf"|(?<![\w./:-]){_NOT_IN_IBAN}\(?0(?!\d([./-])\d\d\1\d{{4}})[1-9]\d{{0,4}}\)?"  # not dates
    r"(?:[ /-]{1,3}\d{2,14}){1,6}(?![\w-]|[. ]\d)"
)
_FRENCH = re.compile(r"(?:0|0033\D?)[1-9](?:\D\d\d){4}")


def _is_card(text: str) -> bool:
    digits = re.sub(r"[ -]", "", text)
    return _BRAND.fullmatch(digits) is not None and _luhn(digits)


def _luhn(digits: str) -> bool:
    """Return whether the last digit is the one that the others ask for (ISO/IEC 7812-1, annex B)."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _is_address(text: str) -> bool:
    """Return whether a text is the address of somebody's machine, and neither a version nor a slice."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    numbers = re.findall(r"\w+", text)
    if address.version == 4:  # 1.2.3.4 is a version or a section; and of these networks and masks are nobody's
        return any(len(number) > 1 for number in numbers) and numbers[0] not in ("0", "127", "255")
    return bool(re.search(r"\d", text)) and (len(numbers) > 2 or bool(re.search("[a-f]", text, re.IGNORECASE)))


def _is_phone(text: str) -> bool:
    """Return whether a number is as long as those of phones are, and no row of a table."""
    groups = re.findall(r"\d+", text)
    n_digits = sum(map(len, groups))
    if text[0] == "+":
        return 8 <= n_digits <= 15
    is_row = max(map(len, groups[1:])) < 3 or (len(groups) > 3 and len(set(map(len, groups))) == 1)
    return 9 <= n_digits <= 15 and (not is_row or _FRENCH.fullmatch(text) is not None)


RULES = (
    Rule("key", _PRIVATE_KEY),
    Rule("key", _MAKERS_KEY),
    Rule("key", _BEARER),
    Rule("secret", _LABELLED),
    Rule("secret", _URL_PASSWORD),
    Rule("e-mail", _E_MAIL),
    Rule("card", _CARD, _is_card),
    Rule("ip", _IP_V4, _is_address),
    Rule("ip", _IP_V6, _is_address),
    Rule("phone", _PHONE, _is_phone),
)


def redact(conversation: ArchivedConversation, counts: Counts) -> ArchivedConversation:
    """Return a conversation without secrets in any of its texts, and without the token ids that spell those.

    A title made of the first exchange has pieces of secrets that no pattern knows: it is made anew.
    """
    redacted = _redact_fields(conversation, ("system_prompt", "params"), counts)
    redacted["visitor_name"] = None  # whatever a site calls its visitors: they are told apart by their ids
    redacted["messages"] = [_redact_message(message, counts) for message in conversation["messages"]]
    if conversation["title_source"] in ("first_message", "keywords"):
        redacted["title"] = _make_title(redacted["messages"], with_reply=conversation["title_source"] == "keywords")
    else:
        redacted["title"] = _redact_value(conversation["title"], counts)
    return redacted  # type: ignore[return-value]


def redact_text(text: str, counts: Counts) -> str:
    """Return a text with the kinds of its secrets in their places."""
    for rule in RULES:
        text = _apply(rule, text, counts)
    return text


def _apply(rule: Rule, text: str, counts: Counts) -> str:
    pieces, end = [], 0
    for match in rule.pattern.finditer(text.translate(_PLAIN_SIGNS)):  # as long as the text: places are the same
        if rule.accepts(match[0]):
            start, stop = match.span("secret" if "secret" in rule.pattern.groupindex else 0)
            pieces += [text[end:start], f"[{rule.kind}]"]
            end = stop
            counts[rule.kind] += 1
    return "".join([*pieces, text[end:]])


def _make_title(messages: Sequence[Mapping[str, Any]], *, with_reply: bool) -> str | None:
    question = next((message for message in messages if message["role"] == "user"), None)
    if question is None:
        return None
    replies = (message["content"] for message in messages if message["parent_id"] == question["id"])
    title = keyword_title(question["content"], next(replies, "")) if with_reply else None
    return title or make_title(question["content"])


def describe_counts(counts: Counts) -> str:
    """Return what was taken out as a line."""
    taken = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    return f"Redacted: {taken or 'nothing'}."


def _redact_message(message: ArchivedMessage, counts: Counts) -> dict[str, Any]:
    feedback = message["feedback"]
    return {
        **_redact_fields(message, ("content", "error", "params", "ledger"), counts),
        **dict.fromkeys(("token_ids", "prompt_shared", "prompt_ids")),
        "feedback": feedback and _redact_fields(feedback, ("comment",), counts),
    }


def _redact_fields(fields: Mapping[str, Any], names: Sequence[str], counts: Counts) -> dict[str, Any]:
    return {**fields, **{name: _redact_value(fields[name], counts) for name in names}}


def _redact_value(value: Any, counts: Counts) -> Any:
    """Return a value of JSON with all its texts redacted, the names of fields too."""
    if isinstance(value, str):
        return redact_text(value, counts)
    if isinstance(value, list):
        return [_redact_value(item, counts) for item in value]
    if isinstance(value, dict):
        return {redact_text(name, counts): _redact_value(item, counts) for name, item in value.items()}
    return value
