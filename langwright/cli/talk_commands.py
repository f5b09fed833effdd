"""The lines of a talk that begin with /: what they are called and what they do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from langwright.base import UserError, nearest
from langwright.cli.talk import SETTINGS, Talk
from langwright.cli.terminal import BLOCK, visible
from langwright.generate import Sampling
from langwright.recipe import parse_override

_WORD = re.compile(r"/[a-z_?]*$")
LEAVE = ("/quit", "/exit", "/q")


@dataclass(frozen=True)
class Command:
    """A command: what follows its word, what it is good for, and what it does."""

    usage: str
    help: str
    act: Callable[[Talk, str], None]


def is_command(text: str) -> bool:
    """Whether a line asks for a command; a path such as /etc/hosts begins a question."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    return _WORD.match(first) is not None


def obey(talk: Talk, text: str) -> bool:
    """Do what a command asks; False to leave. A mistake is told, and the talk goes on."""
    word, *after = text.split(maxsplit=1)
    rest = after[0].strip() if after else ""
    if word in LEAVE:
        return False
    command = COMMANDS.get(word)
    try:
        if command is None:
            guess = nearest(word, COMMANDS)
            fix = f"did you mean {guess}?" if guess else None
            raise UserError(f"no command {word}; /help lists them", fix=fix)
        if rest and not command.usage:
            raise UserError(f"{word} takes nothing after it", found=rest)
        command.act(talk, rest)
    except UserError as error:
        print(error.render())
    return True


def help_text() -> str:
    """All commands, one in a line."""
    lines = [f"{f'{word} {one.usage}':<20} {one.help}" for word, one in COMMANDS.items()]
    lines.append(f"{'/quit':<20} leave (Ctrl-D does too; Ctrl-C stops an answer)")
    lines.append("A line that ends with \\ goes on in the next one;")
    lines.append(f"{BLOCK} begins a text of several lines, and {BLOCK} ends it.")
    return "\n".join(lines)


def _set(talk: Talk, text: str) -> None:
    """``/set``, ``/set NAME``, ``/set NAME VALUE``, ``/set NAME default``."""
    name, _, value = text.partition(" ")
    if not name:
        for key in talk.sampling:
            print(_told(talk, key))
        print(f"(others at their defaults; there are {', '.join(SETTINGS)})")
        return
    if value.strip() == "default":
        talk.change(name, None)
    elif value.strip():
        talk.change(name, parse_override(f"{name}={value.strip()}")[1])
    elif name not in SETTINGS:
        guess = nearest(name, SETTINGS)
        fix = f"did you mean {guess}?" if guess else None
        raise UserError("no such setting", found=name, expected=", ".join(SETTINGS), fix=fix)
    print(_told(talk, name))


def _told(talk: Talk, name: str) -> str:
    described = Sampling.model_fields[name].description
    return f"{name} = {getattr(talk.params, name)!r}  ({described})"


def _temperature(talk: Talk, text: str) -> None:
    """``/temperature 0.7``; without a number it tells the present one."""
    if text:
        try:
            value = float(text)
        except ValueError:
            raise UserError("not a number", found=text, expected="/temperature 0.7") from None
        talk.change("temperature", value)
    print(f"temperature {talk.params.temperature:g}")


def _system(talk: Talk, text: str) -> None:
    """``/system TEXT``, ``/system off``; without a text it tells the present one."""
    if text:
        talk.system = None if text == "off" else text
    print(f"system prompt: {'none' if talk.system is None else visible(talk.system)}")


def _undo(talk: Talk, _: str) -> None:
    print(f"taken back: {visible(talk.undo()['content'])}")


def _clear(talk: Talk, _: str) -> None:
    talk.clear()
    print("forgotten")


def _history(talk: Talk, _: str) -> None:
    names = {"system": "system", "user": "you", "assistant": "model"}
    for message in talk.whole(talk.messages):
        print(f"{names[message['role']]}> {visible(message['content'])}")
    if not talk.messages:
        print("nothing said yet")


def _save(talk: Talk, text: str) -> None:
    path = _path(talk, text, "/save")
    talk.save(path)
    print(f"saved to {path}")


def _load(talk: Talk, text: str) -> None:
    path = _path(talk, text, "/load")
    talk.load(path)
    print(f"{len(talk.messages)} messages from {path}; /history shows them")


def _path(talk: Talk, text: str, word: str) -> Path:
    if not text and talk.file is None:
        raise UserError("which file?", expected=f"{word} talk.json")
    if not text:
        return talk.file or Path()
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise UserError(str(error), where=text) from None
    if "\0" in text:
        raise UserError("not a file name", found=visible(text))
    return path


COMMANDS: dict[str, Command] = {
    "/help": Command("", "this list", lambda talk, _: print(help_text())),
    "/retry": Command("", "another answer to the last question", lambda talk, _: talk.retry()),
    "/undo": Command("", "take back the last question and its answer", _undo),
    "/clear": Command("", "forget the talk so far", _clear),
    "/history": Command("", "the talk so far", _history),
    "/system": Command("[TEXT|off]", "show or change the system prompt", _system),
    "/temperature": Command("[X]", "0: always the likeliest; higher: more varied", _temperature),
    "/set": Command("[NAME [VALUE]]", "show or change a setting; VALUE may be default", _set),
    "/save": Command("[FILE]", "write the talk as JSON (`messages`)", _save),
    "/load": Command("[FILE]", "go on with a saved talk", _load),
    "/stats": Command("", "tokens, speed, context", lambda talk, _: print(talk.figures())),
}
