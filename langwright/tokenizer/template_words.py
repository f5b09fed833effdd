"""Everything that a chat template may use of Jinja and of Python's types.

What is missing here is dangerous (`attr`, a text's `format`), endless (`center`, `batch`,
`lipsum`), or never needed to write down a conversation.
"""

from __future__ import annotations

from jinja2.runtime import LoopContext

# fmt: off
FILTERS = frozenset([
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "format", "groupby",
    "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min",
    "reject", "rejectattr", "replace", "reverse", "round", "select", "selectattr", "sort", "string",
    "title", "trim", "truncate", "unique", "upper", "wordcount",
])
# The attributes and methods of each type; a table's entries can be had by name beside these.
ATTRIBUTES: dict[type, frozenset[str]] = {
    str: frozenset([
        "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal",
        "isdigit", "islower", "isnumeric", "isspace", "isupper", "join", "lower", "lstrip",
        "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition",
        "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
        "upper",
    ]),
    dict: frozenset(["get", "items", "keys", "values"]),
    list: frozenset(["count", "index"]),
    tuple: frozenset(["count", "index"]),
    LoopContext: frozenset([
        "cycle", "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem",
        "previtem", "revindex", "revindex0",
    ]),
}
# fmt: on
