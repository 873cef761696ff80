"""The sandbox against transformers' own rendering, and against templates that mean harm, in a process of their own."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from model import jinja_sandbox
from model.errors import CheckpointError
from model.jinja_sandbox import MAX_BYTES, MAX_SIZE, MAX_SOURCE_CHARS, SandboxedTemplate

ROOT = Path(__file__).parent.parent
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi <you> & 'me' "}]

FEATURES = {
    "tojson": "{{ messages | tojson }}{{ messages[1].content | tojson(ensure_ascii=true) }}",
    "tojson, indented": "{{ messages | tojson(indent=4, sort_keys=true) }}",
    "tojson, compact": "{{ {'a': 1, 'b': [2, 3]} | tojson(separators=(',', ':')) }}",
    "break": "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}",
    "continue": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "generation": "{% set x = 1 %}a\n{% generation %}\n  {% set x = 2 %}{{ x }}\n{% endgeneration %}\n{{ x }}",
    "generation, trimmed": "a {%- generation -%} b {%- endgeneration -%} c",
    "date": "{{ strftime_now('%d %B %Y') }}",
    "variables": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ tools }}{{ documents }}{{ thing is defined }}",
    "namespace": "{% set n = namespace(i=1) %}{% for m in messages %}{% set n.i = n.i + 2 %}{% endfor %}{{ n.i }}",
    "macro": "{% macro f(x, y='!') %}{{ x ~ y }}{% endmacro %}{{ f('a') }}",
    "call block": "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}a{% endcall %}",
    "set block": "{% set x %}{% for m in messages %}{{ m.role }},{% endfor %}{% endset %}{{ x.split(',') | length }}",
    "filter block": "{% filter upper %}{{ messages[0].role }}{% endfilter %}",
    "selecting": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | first }}",
    "slices": "{{ messages[::-1][0].role }}{{ messages[1:] | length }}{{ 'abc'[1:] }}{{ 'abc'[::-1] }}",
    "loop": "{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{{ loop.cycle('x', 'y') }}{% endfor %}",
    "filtered loop": "{% for m in messages if m.role == 'user' %}{{ m.role }}{% else %}none{% endfor %}",
    "recursive loop": "{% for x in [[1], [2]] recursive %}{{ loop(x) if x is not number else x }}{% endfor %}",
    "items": "{% for k, v in messages[0].items() %}{{ k ~ v }}{% endfor %}{{ messages[0] | items | list }}",
    "arithmetic": "{{ 7 % 4 }}{{ 2 * 3 }}{{ '=' * 3 }}{{ 7 // 2 }}{{ 1 / 4 }}{{ -3 + 1 }}{{ 1 < 2 < 3 }}",
    "concatenation": "{{ 1 ~ 'a' ~ none ~ [1, 'b'] ~ {'c': (1, 2)} ~ (3,) }}",
    "replacing": "{{ 'a-b-c'.replace('-', '+', 1) }}{{ 'a-b' | replace('-', '\\n') | indent(2) }}",
    "joining": "{{ ['a', 'b'] | join(', ') }}{{ '+'.join(['a', 'b']) }}",
    "undefined": "{{ nothing }}{{ nothing | default('x') }}{{ 'a' in nothing }}{% for x in nothing %}{% endfor %}",
    "whitespace": "a\n  {% if true %}\n  b\n  {% endif %}\n{#- c -#}\n  d\n",
}

ATTACKS = {
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch pwned') }}",
    "globals of namespace": "{{ namespace.__init__.__globals__.x }}",
    "globals of a function": "{{ raise_exception.__globals__.x }}",
    "globals by an item": "{{ raise_exception['__globals__'].x }}",
    "globals by map": "{{ [raise_exception] | map(attribute='__globals__.x') | first }}",
    "class": "{{ ''.__class__.__mro__ }}",
    "subclasses": "{{ dict.__subclasses__() }}",
    "mro": "{{ dict.mro() }}",
    "frame": "{% macro f() %}{% endmacro %}{{ f._func.__code__ }}",
    "changing": "{{ messages.append(1) }}",
    "include": "{% include 'secret.txt' %}",
    "format": "{{ '{0.__class__}'.format(1) }}",
    "format by an item": "{{ ''['format'](1) }}",
    "width in format": "{{ '{:1000000000}'.format(1) }}",
    "width in format_map": "{{ '{x:1000000000}'.format_map({'x': 1}) }}",
    "width in %": "{% set f = '%1000000000d' %}{{ f % 1 }}",
    "width in a date": "{{ strftime_now('%1000000000d' * 9) }}",
    "center": "{{ 'x' | center(10000000000) }}",
    "center by map": "{{ ['x'] | map('center', 10000000000) | list }}",
    "ljust": "{{ 'x'.ljust(10000000000) }}",
    "zfill": "{{ 'x'.zfill(10000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(10000000000) }}",
    "translate": "{{ 'x'.translate({120: 'y'}) }}",
    "indent": "{{ 'a\nb' | indent(1000000000) }}",
    "indent of JSON": "{{ [[1]] | tojson(indent=1000000000) }}",
    "product": "{{ 'x' * 10000000000 }}",
    "product of a list": "{{ [0] * 10000000000 }}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "squares": "{% set n = namespace(x=99) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "range": "{{ range(1000000000) | list }}",
    "replace": "{{ ('a' * 9000).replace('', 'b' * 9000) }}",
    "replace, as a filter": "{{ ('a' * 9000) | replace('a', 'b' * 9000) }}",
    "join": "{{ ('b' * 90000).join(['', ''] * 9000) }}",
    "join, as a filter": "{{ range(90000) | join('b' * 90000) }}",
    "search": "{{ ('a' * 200000).rsplit('ab' ~ 'a' * 90000) }}",
    "doubling +": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling ~": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling a list": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by nesting": "{% set n = namespace(x=1) %}{% for i in range(19) %}{% set n.x = [n.x, n.x] %}{% endfor %}",
    "doubling by a block": "{% set n = namespace(x='ab') %}{% for i in range(99) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "doubling by a macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(x='ab') %}"
    "{% for i in range(99) %}{% set n.x = f(n.x) %}{% endfor %}",
    "deep": "{% set n = namespace(x=()) %}{% for i in range(90000) %}{% set n.x = (n.x,) %}{% endfor %}{{ {n.x: 1} }}",
    "many names": "{% set x = 'x' * 200000 %}" + "".join(f"{{% set v{i} = x ~ 'ä' ~ {i} %}}" for i in range(1500)),
    "many names of lists": "{% set x = 'äö,' * 60000 %}"
    + "".join(f"{{% set v{i} = x.split(',') %}}" for i in range(1500)),
    "much text": f"{{% for i in range(90000) %}}{'long' * 9999}{{% endfor %}}",
    "much text, kept": f"{{% set x %}}{{% for i in range(90000) %}}{'long' * 9999}{{% endfor %}}{{% endset %}}",
    "much text of a filter": "{% set x %}{% for i in range(9000) %}{% filter replace('a', 'b' * 999) %}"
    + "a" * 200
    + "{% endfilter %}{% endfor %}{% endset %}",
    "much text by name": "{% set x = 'x' * 200000 %}{% set y %}"
    "{% for i in range(90000) %}{{ x }}{% endfor %}{% endset %}",
    "many lists": "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = ["
    + "[]," * 9000
    + "] %}{% endfor %}",
    "long chain": "{% for i in range(90000) %}{% set x = range(90000)"
    + " | map('string')" * 90
    + " | list %}{% endfor %}",
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "endless, by name": "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "endless, continued": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% continue %}{% endfor %}{% endfor %}",
    "endless, in scoped blocks": "{% for i in range(99999) %}{% block b scoped %}"
    "{% for j in range(99999) %}{% endfor %}{% endblock %}{% endfor %}",
    "endless comparison": "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(14) %}{% set n.x = [n.x, n.x] %}"
    "{% set n.y = [n.y, n.y] %}{% endfor %}{% for i in range(99999) %}{% if n.x == n.y %}{% endif %}{% endfor %}",
    "endless search": "{% set t = 'a' * 200000 %}{% for i in range(99999) %}{{ 'ab' in t }}{% endfor %}",
    "macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(40) }}",
    "macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "block that calls itself": "{% block b %}{{ self.b() }}{% endblock %}",
    "loop that calls itself": "{% for x in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "autoescape": "{% autoescape 'x' * 10000000000 %}{% endautoescape %}",
    "long source": "a" * 10_000_000,
    "no Jinja": "{% if %}",
    "nested loops": "{% for i in [] %}" * 25 + "{% endfor %}" * 25,
    "nested ifs": "{% if a %}" * 1500 + "{% endif %}" * 1500,
    "nested brackets": "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
    "long else": "{% if a %}" + "{% elif a %}" * 4000 + "{% endif %}",
    "long sum": "{{ " + "1 + " * 12000 + "1 }}",
    "long path": "{{ a" + ".b" * 24000 + " }}",
    "long number": "{{ " + "9" * 49000 + " }}",
    "many expressions": "{{ a.b(c)[1:] | upper ~ 'x' }}" * 1700,
    "many comparisons": "{{ " + "1 < " * 12000 + "1 }}{{ nothing.x }}",
    "error of many lines": "{{ raise_exception('no\nsystem\r\nmessage' * 9000) }}",
    "arithmetic": "{{ 1 / 0 }}",
    "wrong type": "{{ 5 | items | list }}",
}

CHILD = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
from model import jinja_sandbox
from model.errors import CheckpointError
jinja_sandbox.RENDER_SECONDS = 0.1
ends = {}
for name, source in json.load(sys.stdin).items():
    start = time.thread_time()
    try:
        jinja_sandbox.SandboxedTemplate(source, {}).render({"messages": []})
        end = "no error"
    except CheckpointError as error:
        end = str(error)
    ends[name] = end, time.thread_time() - start
with open("/proc/self/status") as status:  # getrusage counts what the parent had as well
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
json.dump([ends, peak], sys.stdout)
"""


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, tuple[str, float]], int, list[Path]]:
    """How each attack ended and after how many seconds, the peak of memory in bytes, and the files that were made."""
    folder = tmp_path_factory.mktemp("attacked")
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(ATTACKS),
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert child.returncode == 0, child.stderr
    ends, peak = json.loads(child.stdout)
    return ends, peak, list(folder.iterdir())


def oracle(source: str, **variables: Any) -> str:
    rendered, _ = render_jinja_template([MESSAGES], chat_template=source, **variables)
    return rendered[0]


def render(source: str, **variables: Any) -> str:
    return SandboxedTemplate(source, {}).render({"messages": MESSAGES, **variables})


@pytest.mark.parametrize("name", FEATURES)
def test_template_renders_as_in_transformers(name: str) -> None:
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    expected = oracle(FEATURES[name], **variables)
    assert (
        SandboxedTemplate(FEATURES[name], variables).render({"messages": MESSAGES, "tools": None, "documents": None})
        == expected
    )


SCALARS = st.none() | st.booleans() | st.integers() | st.text()
JSON = st.recursive(SCALARS, lambda values: st.lists(values) | st.dictionaries(st.text(), values), max_leaves=8)


@settings(max_examples=50)
@given(value=JSON, indent=st.none() | st.integers(0, 4), ensure_ascii=st.booleans())
def test_json_is_that_of_transformers(value: object, indent: int | None, ensure_ascii: bool) -> None:
    source = "{{ value | tojson(ensure_ascii=ensure_ascii, indent=indent) }}"
    variables = {"value": value, "indent": indent, "ensure_ascii": ensure_ascii}
    assert render(source, **variables) == oracle(source, **variables)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_ends_in_one_line_within_two_seconds(attacked: Any, name: str) -> None:
    end, seconds = attacked[0][name]
    assert end.startswith("chat template: ")
    assert "\n" not in end
    assert "MemoryError" not in end
    assert len(end) < 400
    assert seconds < 2


def test_attacks_together_stay_below_300_megabytes(attacked: Any) -> None:
    assert attacked[1] < 300_000_000


def test_attacks_make_no_files(attacked: Any) -> None:
    assert attacked[2] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("globals", "SecurityError: access to attribute '__init__' of 'Undefined' object is unsafe."),
        ("class", "SecurityError: access to attribute '__class__' of 'str' object is unsafe."),
        ("changing", "SecurityError: access to attribute 'append' of 'list' object is unsafe."),
        ("ljust", "SecurityError: access to attribute 'ljust' of 'str' object is unsafe."),
        ("center", "expected Jinja, found TemplateAssertionError: No filter named 'center'."),
        ("width in %", "SecurityError: % is not for chat templates"),
        ("replace", f"SecurityError: a step of it may make 81,000,000 characters or items, more than {MAX_SIZE:,}"),
        ("doubling ~", f"SecurityError: it makes a value of more than {MAX_SIZE:,} characters or items"),
        ("much text", f"SecurityError: it makes values of more than {MAX_BYTES:,} bytes"),
        ("deep", "SecurityError: it nests values more than 20 deep"),
        ("endless", "SecurityError: it runs longer than 0.1 s"),
        ("macro that calls itself", "RecursionError: maximum recursion depth exceeded"),
        ("long source", f"expected at most {MAX_SOURCE_CHARS:,} characters, found 10,000,000"),
        ("no Jinja", "expected Jinja, found TemplateSyntaxError: Expected an expression, got 'end of statement block'"),
        ("autoescape", "expected Jinja, found SecurityError: autoescape is not for chat templates"),
        ("arithmetic", "ZeroDivisionError: division by zero"),
    ],
)
def test_error_says_what_went_wrong(attacked: Any, name: str, expected: str) -> None:
    assert attacked[0][name][0] == f"chat template: {expected}"


def test_template_may_run_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_sandbox, "MAX_BYTES", 10**12)  # which a fast machine would reach before
    start = time.thread_time()
    with pytest.raises(CheckpointError, match="it runs longer than 1 s"):
        render(ATTACKS["endless"])
    assert 1 <= time.thread_time() - start < 1.5


def test_limits_are_those_of_one_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_sandbox, "MAX_BYTES", 10_000)
    template = SandboxedTemplate("{{ 'x' * 400 }}", {})
    assert [template.render({}) for _ in range(9)] == ["x" * 400] * 9
