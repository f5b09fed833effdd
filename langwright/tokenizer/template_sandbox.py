"""Jinja for templates from strangers: no way out, and an end in bounded time and memory.

Jinja's own sandbox keeps a template away from Python's insides, but lets it loop and double texts
as long as it likes. Here only known filters, methods and functions can be called, and every loop,
call, text and list is charged to a `Budget`. The names are those that transformers offers to chat
templates.
"""

from __future__ import annotations

import datetime
import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from langwright.tokenizer.template_budget import Budget
from langwright.tokenizer.template_words import ATTRIBUTES, FILTERS

LONGEST_TEMPLATE = 2**18  # characters; the longest published ones have about 20,000
MOST_NODES = 20_000
UNITS, UNITS_PER_MESSAGE, UNITS_PER_CHARACTER = 20_000_000, 50_000, 64
_CALL = 100  # units of a call itself


def compile_template(source: str, functions: Mapping[str, Callable[..., Any]]) -> SafeTemplate:
    """A template of a stranger, ready to run.

    Args:
        source: Jinja.
        functions: what it may call beside ``range``, ``dict``, ``namespace`` and ``strftime_now``.

    Raises:
        Exception: of Jinja or Python, for a source that is no template, or far too long.
    """
    if len(source) > LONGEST_TEMPLATE:
        raise SecurityError(f"it has {len(source):,} characters, more than {LONGEST_TEMPLATE:,}")
    environment = SafeEnvironment(functions)
    return SafeTemplate(environment, environment.from_string(source))


class SafeTemplate:
    """A compiled template; `render` may be called from several threads."""

    def __init__(self, environment: SafeEnvironment, template: Template) -> None:
        self._environment, self._template = environment, template

    def render(self, messages: list[dict[str, str]], variables: Mapping[str, Any]) -> str:
        """The text for `messages`; whatever goes wrong in the template is raised as it is."""
        size = sum(len(one["content"]) for one in messages)
        units = UNITS + UNITS_PER_MESSAGE * len(messages) + UNITS_PER_CHARACTER * size
        budget = Budget(units)
        self._environment.local.budget = budget
        try:
            parts = []
            for part in self._template.generate(messages=messages, **variables):
                budget.charge(1 + len(part))
                parts.append(part)
            return "".join(parts)
        finally:
            self._environment.local.budget = None


class SafeEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a budget and short lists of what may be used."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", GenerationBlock],
            optimized=False,  # the optimizer would compute constants while it compiles
            finalize=self._finalize,
        )
        self.local = threading.local()
        self.macro_units: dict[str, int] = {}
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": Namespace,
            "strftime_now": _strftime_now,
            **functions,
        }
        self._callable = tuple(self.globals.values())
        self.filters = {
            name: _metered(self.filters[name], _GUARDS.get(name)) for name in FILTERS
        } | {
            "tojson": _metered(_to_json, None),
            "safe": _metered(str, None),
            "_weigh": _weigh,
            "_concat": _concat,
            "_each": _each,
        }
        tests: dict[str, Any] = {**self.tests}
        self.tests = {name: _metered(test, None, strict=False) for name, test in tests.items()}

    @property
    def budget(self) -> Budget:
        """Of the rendering that goes on in this thread."""
        budget: Budget | None = getattr(self.local, "budget", None)
        return budget or Budget(UNITS)  # none while Jinja compiles

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = Parser(self, source, name, filename).parse()
        if (count := _count(tree)) > MOST_NODES:
            raise SecurityError(f"it has {count:,} parts, more than {MOST_NODES:,}")
        for macro in tree.find_all(nodes.Macro):
            self.macro_units[macro.name] = self.macro_units.get(macro.name, 0) + _count(macro)
        self.macro_units["caller"] = count
        _Meter().visit(tree)
        tree.set_environment(self)
        return tree

    def _finalize(self, value: Any) -> Any:
        """What is printed: texts and numbers, and tables of such."""
        return self.budget.weigh(value)

    def concat(self, parts: Any) -> str:  # type: ignore[override]  # an attribute up there
        """Join what a macro or block has printed."""
        texts = list(parts)
        self.budget.charge(sum(len(text) for text in texts) + 1)
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = self.budget
        if operator == "+" and type(left) is str and type(right) is str:  # by far the most
            budget.charge(1 + len(left) + len(right))
            return left + right
        budget.before_operator(operator, left, right)
        return budget.weigh(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr.startswith("_"):
            return False
        if isinstance(obj, Namespace):
            return True
        return any(isinstance(obj, kind) and attr in names for kind, names in ATTRIBUTES.items())

    def wrap_str_format(self, value: Any) -> None:
        """``str.format`` is not offered: see `is_safe_attribute`."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"a template cannot use {attribute[:40]!r} of a {type(obj).__name__}")

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = self.budget
        budget.charge(_CALL)
        budget.arguments(args)
        budget.arguments(kwargs.values())
        if isinstance(__obj, Macro):
            name = __obj.name
            budget.charge(_CALL + self.macro_units.get(name, self.macro_units["caller"]))
        elif isinstance(__obj, BuiltinMethodType):
            self._before_method(__obj.__self__, __obj.__name__, args)
        elif not self._is_known(__obj):
            raise SecurityError("a template cannot call this")
        result = super().call(__context, __obj, *args, **kwargs)
        return budget.weigh(result, strict=False)

    def _before_method(self, owner: Any, name: str, args: tuple[Any, ...]) -> None:
        if not self.is_safe_attribute(owner, name, None):
            raise SecurityError(f"a template cannot call {name}")
        self.budget.weigh(owner)
        if isinstance(owner, str) and name == "replace" and len(args) >= 2:
            self.budget.before_replace(owner, *args[:2])
        if isinstance(owner, str) and name == "join" and args:
            self.budget.before_join(args[0], owner)

    def _is_known(self, obj: Any) -> bool:
        if isinstance(obj, LoopContext):  # a recursive loop goes down one level
            return True
        if isinstance(obj, MethodType):
            return isinstance(obj.__self__, LoopContext) and obj.__name__ == "cycle"
        return any(obj is one for one in self._callable)


class GenerationBlock(Extension):
    """``{% generation %}``, which transformers' templates put around the assistant's words: here
    the words are found otherwise, so the block is its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Meter(NodeTransformer):
    """Put the charges for work that Jinja has no hook for into a template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        units = 1 + _count(node)  # of one turn: everything inside
        self.generic_visit(node)
        node.iter = _filter("_each", node.iter, nodes.Const(units))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter("_weigh", node.expr)
        for operand in node.ops:
            operand.expr = _filter("_weigh", operand.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter("_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter("_weigh", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filter("_weigh", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filter("_weigh", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return node if node.ctx == "store" else _filter("_weigh", node)


def _filter(name: str, node: nodes.Node, *arguments: nodes.Expr) -> nodes.Filter:
    expression: Any = node
    new = nodes.Filter(expression, name, list(arguments), [], None, None)
    new.set_lineno(node.lineno)
    return new


def _count(node: nodes.Node) -> int:
    """The parts of a piece of template."""
    return 1 + sum(_count(child) for child in node.iter_child_nodes())


@pass_context  # which also keeps Jinja from computing it while it compiles
def _weigh(context: Context, value: Any) -> Any:
    return _budget(context).weigh(value, strict=isinstance(value, list | tuple | dict))


@pass_context
def _concat(context: Context, values: list[Any]) -> str:
    budget = _budget(context)
    return budget.weigh("".join([str(budget.weigh(value)) for value in values]))


@pass_context
def _each(context: Context, values: Any, units: int) -> Iterator[Any]:
    return _budget(context).each(values, units)


def _budget(context: Context) -> Budget:
    budget: Budget = context.environment.budget  # type: ignore[attr-defined]  # a SafeEnvironment
    return budget


def _metered(
    function: Callable[..., Any],
    guard: Callable[..., None] | None,
    *,
    strict: bool = True,
) -> Callable[..., Any]:
    """A filter or test that charges for what goes in and comes out."""
    passed = getattr(function, "jinja_pass_arg", None)
    first: dict[str, Callable[[Context], Any]] = {
        "context": lambda context: context,
        "eval_context": lambda context: context.eval_ctx,
        "environment": lambda context: context.environment,
    }

    @pass_context
    @functools.wraps(function, updated=())
    def metered(context: Context, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(context)
        budget.charge(_CALL)
        for value in (*args, *kwargs.values()):
            budget.weigh(value, strict=strict)
        if guard is not None:
            guard(budget, *args, **kwargs)
        if passed is not None:
            args = (first[passed.name](context), *args)
        return budget.weigh(function(*args, **kwargs), strict=strict)

    return metered


def _guard_indent(budget: Budget, text: Any, width: Any = 4, *rest: Any, **named: Any) -> None:
    budget.before_indent(text, width)


def _guard_join(budget: Budget, values: Any, d: Any = "", attribute: Any = None) -> None:
    budget.before_join(values, d)


def _guard_replace(budget: Budget, text: Any, old: Any, new: Any, count: Any = None) -> None:
    budget.before_replace(text, old, new)


def _guard_round(budget: Budget, value: Any, precision: Any = 0, method: Any = "common") -> None:
    budget.small(precision)


def _guard_format(budget: Budget, text: Any, *values: Any, **named: Any) -> None:
    budget.plain_percent(str(text))


_GUARDS: dict[str, Callable[..., None]] = {
    "format": _guard_format,
    "indent": _guard_indent,
    "join": _guard_join,
    "replace": _guard_replace,
    "round": _guard_round,
}


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it into conversations, without HTML's escapes."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
        raise SecurityError("it indents too far")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(layout: str) -> str:
    """The present date, as some templates tell it to the model."""
    if not isinstance(layout, str) or len(layout) > 64:
        raise SecurityError("the layout of a date is a short text")
    return datetime.datetime.now().strftime(layout)
