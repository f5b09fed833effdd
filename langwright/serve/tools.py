"""Functions that the model may call.

Whatever the model: the functions stand in the system message as JSON, a call is JSON between
<tool_call> and </tool_call>, an answer of a function stands between <tool_response> marks. These
are the marks of the Hermes and Qwen models; others follow them as well as they follow instructions.
Where a call is demanded, or a function is `strict`, a grammar sees to the form.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from langwright.base import UserError
from langwright.generate import Constraint
from langwright.serve.config import ServeConfig
from langwright.serve.errors import ApiError, from_user_error
from langwright.serve.limits import check_count, check_form
from langwright.serve.openai_types import ChatBody, NamedTool, Tool
from langwright.serve.replies import CalledFunction, CalledTool
from langwright.serve.split import CALL, END_CALL

ANY_OBJECT = {"type": "object"}
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def offered(body: ChatBody, config: ServeConfig) -> list[Tool]:
    """The functions that the model may call now: none with tool_choice "none", one if it was named.

    Raises:
        ApiError: 400 for what does not fit together.
    """
    tools = body.tools or []
    check_count(tools, config.max_tools, "tools")
    names = [tool.function.name for tool in tools]
    for index, tool in enumerate(tools):
        check_form(tool.function.parameters or {}, config, f"tools.{index}.function.parameters")
        if names.index(tool.function.name) != index:
            param = f"tools.{index}.function.name"
            raise ApiError(400, f"{param}: two functions of one name", param=param)
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        if choice.function.name not in names:
            raise ApiError(
                400, "tool_choice names a function that is not in tools", param="tool_choice"
            )
        return [tools[names.index(choice.function.name)]]
    if choice == "required" and not tools:
        raise ApiError(400, "tool_choice is required, but there are no tools", param="tool_choice")
    return [] if choice == "none" else tools


def instructions(tools: Sequence[Tool]) -> str:
    """What the system message says of the functions."""
    lines = []
    for tool in tools:
        function = tool.function
        shown = {
            "name": function.name,
            "description": function.description or "",
            "parameters": function.parameters or ANY_OBJECT,
        }
        lines.append(json.dumps({"type": "function", "function": shown}, ensure_ascii=False))
    return (
        "# Tools\n\nYou can call functions to help with the user's request. The functions:\n"
        "<tools>\n" + "\n".join(lines) + "\n</tools>\n\n"
        "To call one, write a JSON object with its name and arguments between marks:\n"
        f'{CALL}\n{{"name": <the name>, "arguments": <an object>}}\n{END_CALL}'
    )


def call_text(name: str, arguments: str) -> str:
    """A call of an earlier turn, as the model would have written it."""
    try:
        value = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        value = arguments  # the model reads what it wrote
    shown = json.dumps({"name": name, "arguments": value}, ensure_ascii=False)
    return f"{CALL}\n{shown}\n{END_CALL}"


def response_text(content: str) -> str:
    """What a function answered."""
    return f"<tool_response>\n{content}\n</tool_response>"


def parse_call(text: str, tools: Sequence[Tool]) -> CalledFunction | None:
    """A call as the model wrote it; None for what is not a call of one of the functions."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # JSON inside JSON: some models write it so
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if value["name"] not in [tool.function.name for tool in tools]:
        return None
    if not isinstance(arguments, dict):
        return None
    written = json.dumps(arguments, ensure_ascii=True)
    return CalledFunction(name=value["name"], arguments=written)


def called(function: CalledFunction, index: int | None) -> CalledTool:
    """A call with an id of its own; `index` in streams only."""
    name = "call_" + secrets.token_hex(12)
    if index is None:
        return CalledTool(id=name, type="function", function=function)
    return CalledTool(index=index, id=name, type="function", function=function)


def call_constraint(body: ChatBody, tools: Sequence[Tool]) -> Constraint | None:
    """The grammar of the answer: calls and nothing else where one is demanded; text in which each
    call has the right form where all functions are strict; else none."""
    demanded = isinstance(body.tool_choice, NamedTool) or body.tool_choice == "required"
    strict = bool(tools) and all(tool.function.strict for tool in tools)
    if not demanded and not strict:
        return None
    one = body.parallel_tool_calls is False or isinstance(body.tool_choice, NamedTool)
    end = f'"\\n" obj "\\n{END_CALL}"'
    if demanded:
        grammar = "start: call\n" if one else 'start: call ("\\n" call)*\n'
        grammar += f'call: "{CALL}" {end}\n'
    else:
        # Text as the model likes, up to a mark: then a call in the right form must follow.
        grammar = "start: SAID | call\n" if one else "start: call* SAID\n"
        grammar += f"SAID: /(.|\\n)*/ & ~/(.|\\n)*{CALL}(.|\\n)*/\n"
        grammar += f'call: before {end}\nbefore[stop="{CALL}"]: /(.|\\n)*/\n'
    grammar += f"obj: %json {json.dumps(calls_schema(tools))}\n"
    try:
        return Constraint.parse({"kind": "grammar", "value": grammar}, where="tools")
    except UserError as error:
        raise from_user_error(error) from None


def calls_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """JSON schema of one call of any of the functions.

    Raises:
        ApiError: 400 for a reference to anything but a schema's own `$defs`.
    """
    shared: dict[str, Any] = {}
    ways = []
    for index, tool in enumerate(tools):
        parameters = dict(tool.function.parameters or ANY_OBJECT)
        parts: dict[str, Any] = {}
        places: dict[str, str] = {}  # old reference -> name in `shared`
        for group in ("$defs", "definitions"):
            for name, part in dict(parameters.pop(group, None) or {}).items():
                own = f"{index}-{group.strip('$')}-{name}"
                parts[own], places[f"#/{group}/{name}"] = part, own
        shared |= {own: _renamed(part, places) for own, part in parts.items()}
        properties = {
            "name": {"const": tool.function.name},
            "arguments": _renamed(parameters, places),
        }
        ways.append(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = {"anyOf": ways, "x-guidance": _COMPACT}
    return {**schema, "$defs": shared} if shared else schema


def _renamed(schema: Any, places: dict[str, str]) -> Any:
    """The schema with its references turned to where the shared parts stand now."""
    if isinstance(schema, list):
        return [_renamed(one, places) for one in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _renamed(value, places) for key, value in schema.items()}
    reference = changed.get("$ref")
    if isinstance(reference, str):
        if reference not in places:
            raise ApiError(
                400, f"tools: {reference[:80]!r} is not among the schema's $defs", param="tools"
            )
        changed["$ref"] = f"#/$defs/{places[reference]}"
    return changed
