"""Jinja for programs of strangers: nothing to reach outside, and a limit to what a program may take.

The sandbox of the jinja2 package keeps a template away from Python's internals. Time and memory are left to us: every
value that a template makes is charged for as it comes into being, in `_measured`, and a step that could multiply its
operands into something huge is refused before it is taken. Only filters and methods that can be judged like that are
offered: those that chat templates use.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from types import BuiltinMethodType
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from model.errors import CheckpointError

MAX_SOURCE_CHARS = 50_000
RENDER_SECONDS = 1.0
MAX_BYTES = 50_000_000  # of all values that one rendering makes, whether or not they are still there
MAX_SIZE = 300_000  # of one value, in characters and items, those of its items included
MAX_DEPTH = 20  # of lists in lists
MAX_ERROR_CHARS = 300

FILTERS = (
    "abs capitalize count d default dictsort first float indent int items join last length list lower map max min "
    "reject rejectattr replace reverse safe select selectattr sort string title trim unique upper"
)
GROWING = ("indent", "join", "replace")  # the filters that make more than they are given
METHODS = (
    "capitalize changed count cycle endswith find get index items join keys lower lstrip removeprefix removesuffix "
    "replace rsplit rstrip split splitlines startswith strip title upper values"
)


class SandboxedTemplate:
    """A compiled template, with the names that Hugging Face's chat templates expect."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        """Compile the source; `variables` are further names that it may use. Raises CheckpointError."""
        if len(source) > MAX_SOURCE_CHARS:
            raise CheckpointError(
                f"chat template: expected at most {MAX_SOURCE_CHARS:,} characters, found {len(source):,}"
            )
        try:
            sandbox = _Sandbox(variables)
            program = sandbox.compile(_Metering().visit(sandbox.parse(source)))
            self._template = Template.from_code(sandbox, program, sandbox.globals)
        except Exception as error:  # not only TemplateError: a stranger's program may end in any
            raise CheckpointError(f"chat template: expected Jinja, found {_one_line(error)}") from None

    def render(self, variables: Mapping[str, object]) -> str:
        """Return what the template writes; raises CheckpointError for whatever it ends in, limits included."""
        token = _meter.set(_Meter())
        try:
            return self._template.render(variables)
        except Exception as error:
            raise CheckpointError(f"chat template: {_one_line(error)}") from error
        finally:
            _meter.reset(token)


class _Meter:
    """What one rendering may still take.

    The time is that of this thread on a processor: a busy machine must not make a harmless template fail. The clock on
    the wall, which is never behind it, is cheaper to read.
    """

    def __init__(self) -> None:
        self._n_bytes = MAX_BYTES
        self._wall_end = time.monotonic() + RENDER_SECONDS
        self._thread_end = time.thread_time() + RENDER_SECONDS

    def charge(self, n_bytes: int) -> None:
        self._n_bytes -= n_bytes
        if self._n_bytes < 0:
            raise SecurityError(f"it makes values of more than {MAX_BYTES:,} bytes")
        if time.monotonic() > self._wall_end and time.thread_time() > self._thread_end:
            raise SecurityError(f"it runs longer than {RENDER_SECONDS:g} s")


_meter: ContextVar[_Meter] = ContextVar("meter")


def charge(n_bytes: int) -> None:
    """Count bytes that were made for the template being rendered; raises SecurityError when they are too many."""
    _meter.get().charge(n_bytes)


def _check_growth(*operands: object) -> None:
    """Raise SecurityError when a step with these operands could make something huge in one go.

    Operators, filters and methods of texts make no more than the product of their two largest operands.
    """
    first, second = sorted([1, 1, *map(_size_alone, operands)])[-2:]
    if first * second > MAX_SIZE:
        raise SecurityError(f"a step of it may make {first * second:,} characters or items, more than {MAX_SIZE:,}")


def _size_alone(operand: Any) -> int:
    if isinstance(operand, int):
        return abs(operand)
    if isinstance(operand, str):
        return str.__len__(operand)  # a subclass may answer for a text that it only stands for
    return len(operand) if hasattr(operand, "__len__") else 1


def _measured(value: Any) -> Any:
    """Charge for a value that the template has made, and return it; lazy sequences become lists, to be measured."""
    if isinstance(value, Iterator):
        items = []
        for item in value:
            _charge_for(item)
            items.append(item)
        value = items
    _charge_for(value)
    return value


def _charge_for(value: object) -> None:
    size = _size(value)
    if size > MAX_SIZE:
        raise SecurityError(f"it makes a value of more than {MAX_SIZE:,} characters or items")
    charge(sys.getsizeof(value) + size)


def _size(value: object, depth: int = 0) -> int:
    """Return how many characters and items a value has, an item counted each time that it appears."""
    if isinstance(value, str):
        return str.__len__(value)
    if isinstance(value, dict):
        value = (*value, *value.values())
    if not isinstance(value, (list, tuple)):
        return 1
    if depth > MAX_DEPTH:
        raise SecurityError(f"it nests values more than {MAX_DEPTH} deep")
    size = len(value)
    for item in value:
        size += _size(item, depth + 1)
        if size > MAX_SIZE:  # shared items can make it any number
            break
    return size


@pass_context  # so that Jinja leaves constant expressions to the rendering
def _measure(context: Context, value: Any) -> Any:
    return _measured(value)


class _Metering(NodeTransformer):
    """Pipes what a template makes through filters that measure it: expressions, written text, lists looped over.

    Calls, filters and operators are not here since the sandbox measures those.
    """

    _MAKERS = (nodes.Compare, nodes.Concat, nodes.Dict, nodes.Getitem, nodes.List, nodes.Test, nodes.Tuple)

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.ScopedEvalContextModifier):
            raise SecurityError("autoescape is not for chat templates")
        if isinstance(node, nodes.For):
            node.iter = _piped(node.iter, "list")
        elif isinstance(node, nodes.AssignBlock):
            node.filter = _piped(node.filter, "measure")
        elif isinstance(node, nodes.Output):
            node.nodes = [_piped(child, "measure") for child in node.nodes]
        elif isinstance(node, self._MAKERS) and getattr(node, "ctx", "load") == "load":
            return _piped(node, "measure")
        return node


def _piped(node: nodes.Node | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "%", "**"})
    _methods = frozenset(METHODS.split())

    def __init__(self, variables: Mapping[str, str]) -> None:
        # Not optimized: constant expressions wait for the rendering, where they are measured
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[loopcontrols, _Generation])
        self.filters = {name: _as_step(self.filters[name], grows=name in GROWING) for name in FILTERS.split()}
        self.filters |= {"tojson": _as_step(_to_json, grows=False), "measure": _measure}
        self.globals = {
            "dict": dict,
            "namespace": Namespace,
            "raise_exception": _raise_exception,
            "range": safe_range,
            "strftime_now": _strftime_now,
            **variables,
        }

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and (not callable(value) or attr in self._methods)

    def wrap_str_format(self, value: Any) -> None:
        return None  # str.format is no safe attribute: a width in a text is a number that nobody has measured

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, str):
            _check_growth(obj.__self__, *args, *kwargs.values())
        return _measured(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise SecurityError(f"{operator} is not for chat templates")
        if operator == "*":
            _check_growth(left, right)
        return _measured(super().call_binop(context, operator, left, right))


class _Generation(Extension):
    """`{% generation %}`, which marks what a model learns to write: here its body is written as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _as_step(function: Callable[..., Any], *, grows: bool) -> Callable[..., Any]:
    """Return a filter that is measured, and refused where it could make something huge."""

    @wraps(function)  # with the marks by which Jinja knows what to pass
    def step(*args: Any, **kwargs: Any) -> Any:
        if grows:
            _check_growth(*args, *kwargs.values())
        return _measured(function(*args, **kwargs))

    return step


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    _check_growth(_size(value), indent, *(separators or ()))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:
    if len(format) > 100:
        raise SecurityError("strftime_now takes at most 100 characters")
    return datetime.now().strftime(format)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_ERROR_CHARS]
