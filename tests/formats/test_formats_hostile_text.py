"""Tokenizers and chat templates made to do harm: no code run, little time, little memory."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from hostile_run import run_limited

from langwright.tokenizer import ChatTemplate

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="limits memory as Linux does"
)


def repeat(times, inside):
    """`inside` within so many loops of 100,000 turns, one in another."""
    for level in range(times):
        inside = "{% for i" + str(level) + " in range(100000) %}" + inside + "{% endfor %}"
    return inside


DOUBLE = "".join("{% set s = s ~ s %}" for _ in range(60))
LISTS = "{% set l = ['x'] %}" + "{% set l = [l, l] %}" * 60
OTHERS = "{% set m = ['x'] %}" + "{% set m = [m, m] %}" * 60
TALK = "{% for m in messages %}{{ m.content }}{% endfor %}"

# Templates that would take years, or all memory.
ENDLESS = {
    "loops": repeat(3, ""),
    "loops-printing": repeat(2, "x"),
    "loops-with-work": repeat(2, "{% if 1 and 1 and 1 and 1 and 1 and 1 %}{% endif %}" * 50),
    "double": "{% set s = 'x' %}" + DOUBLE + "{{ s }}",
    "double-plus": "{% set s = 'x' %}" + DOUBLE.replace("~", "+") + "{{ s }}",
    "double-join": "{% set s = 'x' %}" + "{% set s = [s, s] | join(s) %}" * 60,
    "double-method-join": "{% set s = 'x' %}" + "{% set s = s.join([s, s, s]) %}" * 60,
    "double-replace": "{% set s = 'xx' %}" + "{% set s = s.replace('x', s) %}" * 60,
    "double-replace-filter": "{% set s = 'xx' %}" + "{% set s = s | replace('x', s) %}" * 60,
    "double-block": "{% set s = 'x' %}" + "{% set s %}{{ s }}{{ s }}{% endset %}" * 60,
    "double-json": "{% set s = '\\\\' %}" + "{% set s = s | tojson %}" * 60,
    "double-kept": "{% set n = namespace(l=[]) %}"
    + "{% for i in range(99999) %}{% set n.l = n.l + ['x' * 99999 ~ i] %}{% endfor %}",
    "times": "{{ 'x' * 10**11 }}",
    "times-back": "{{ 10**11 * 'x' }}",
    "times-list": "{{ ([1] * 10**11) | length }}",
    "times-constant": "{{ 'x' * 100000000000 }}",
    "power": "{{ 10**(10**10) }}",
    "power-steps": "{% set n = 10 %}" + "{% set n = n * n %}" * 60,
    "percent": "{{ '%99999999999d' % 1 }}",
    "percent-filter": "{{ '%99999999999d' | format(1) }}",
    "percent-star": "{{ '%*d' | format(99999999999, 1) }}",
    "format": "{{ '{:99999999999}'.format(1) }}",
    "center": "{{ 'x' | center(99999999999) }}",
    "ljust": "{{ 'x'.ljust(99999999999) }}",
    "zfill": "{{ 'x'.zfill(99999999999) }}",
    "tabs": "{{ '\t'.expandtabs(99999999999) }}",
    "indent": "{{ 'x\ny' | indent(99999999999) }}",
    "json-indent": "{{ [1] | tojson(indent=99999999999) }}",
    "batch": "{{ [1] | batch(99999999999, 0) | list }}",
    "round": "{{ 1.5 | round(999999999, 'floor') }}",
    "range": "{% for i in range(10**12) %}{% endfor %}",
    "lipsum": "{{ lipsum(n=99999999) }}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "macro-itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro-caller": "{% macro f(n) %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call f(1) %}" * 15
    + "x" * 1000
    + "{% endcall %}" * 15,
    "recursive": "{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "lists": LISTS + "{{ l }}",
    "lists-length": LISTS + "{{ l | string | length }}",
    "lists-compared": LISTS + OTHERS + "{{ l == m }}",
    "lists-searched": LISTS + OTHERS + "{{ l in [m] }}",
    "lists-filtered": LISTS + OTHERS + "{{ [l] | reject('in', [m]) | list }}",
    "lists-sorted": LISTS + OTHERS + "{{ [l, m] | sort }}",
    "tuples-as-keys": "{% set t = ('x', 'y') %}" + "{% set t = (t, t) %}" * 60 + "{{ {t: 1} }}",
    "tables": "{% set d = {'a': 1} %}" + "{% set d = {'a': d, 'b': d} %}" * 60 + "{{ d }}",
    "tables-by-name": "{% set d = {'a': 1} %}" + "{% set d = dict(a=d, b=d) %}" * 60 + "{{ d }}",
    "added-lists": "{% set l = ['x'] %}" + "{% set l = [l] + [l] %}" * 60 + "{{ l }}",
    "many-lists": "{% set l = ['x'] %}" + "{% set l = [l] * 1000 %}" * 60 + "{{ l }}",
    "summed": "{{ ([[1]] * 100000) | sum(start=[]) }}",
    "namespaces": "{% set a = namespace(x=1) %}"
    + "".join("{% set b = namespace(x=a, y=a) %}{% set a = b %}" for _ in range(60))
    + "{{ a }}",
    "namespace-itself": "{% set a = namespace() %}{% set a.a = a %}{{ a }}{{ [a] }}",
    "search-range": repeat(2, "{{ 'x' in range(100000) }}"),
    "search-text": "{% set s = 'x' * 1000000 %}" + repeat(1, "{% if 'y' in s %}{% endif %}"),
    "slices": "{% set s = 'x' * 1000000 %}" + repeat(1, "{% set t = s[1:] %}"),
    "printing": "{% set s = 'x' * 100000 %}" + repeat(1, "{{ s }}"),
    "mapped": "{% set s = 'x' * 100000 %}" + repeat(1, "{% set t = s | map('upper') | list %}"),
    "deep": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "deep-loops": repeat(30, "x"),
    "deep-brackets": "{{ " + "(" * 100_000 + ")" * 100_000 + " }}",
    "deep-not": "{{ " + "not " * 50_000 + "1 }}",
    "long": "{{ 1 }}" * 30_000,
    "longer": "x" * 300_000,
}
# Templates that reach for what is no business of theirs.
REACHING = {
    "class": "{{ ''.__class__ }}",
    "class-item": "{{ ''['__class__'] }}",
    "class-attr": "{{ '' | attr('__class__') }}",
    "class-map": "{{ [''] | map(attribute='__class__') | list }}x{{ raise_exception('refused') }}",
    "class-sort": "{{ ['', 'a'] | sort(attribute='__class__') }}{{ raise_exception('refused') }}",
    "class-format": "{{ '{0.__class__}'.format('') }}",
    "class-format-map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "globals-cycler": "{{ cycler.__init__.__globals__.os.system('touch sprung') }}",
    "globals-namespace": "{{ namespace.__init__.__globals__ }}",
    "globals-dict": "{{ dict.__subclasses__() }}",
    "globals-loop": "{% for i in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "globals-macro": "{% macro f() %}{% endmacro %}{{ f._func.__globals__ }}",
    "self": "{{ self._TemplateReference__context }}",
    "self-block": "{% block a %}{{ self.a() }}{% endblock %}",
    "generator": "{{ (messages | map('upper')).gi_frame.f_back }}",
    "generator-item": "{{ (messages | map('upper'))['gi_frame'] }}",
    "undefined": "{{ nothing.__class__ }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.system('touch sprung') }}",
    "extends": "{% extends '/etc/passwd' %}",
    "changing": "{{ messages.append(1) }}",
    "changing-table": "{{ messages[0].update(role='x') }}",
    "changing-clear": "{{ dict.clear(messages[0]) }}",
    "changing-from": "{{ dict.fromkeys('ab', 1) }}{{ raise_exception('refused') }}",
    "namespace-hidden": "{% set n = namespace(__class__=1) %}{{ n.__class__ }}",
    "calling-text": "{{ messages[0].content() }}",
}
TEMPLATES = {**ENDLESS, **REACHING}


def tokenizer_file(**parts):
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": {"a": 0, "!": 1, " ": 2}, "merges": []},
    }
    return json.dumps({**content, **parts}).encode()


def model(**parts):
    return tokenizer_file(
        model={"type": "BPE", "vocab": {"a": 0, "!": 1, " ": 2}, "merges": [], **parts}
    )


def split(regex):
    return tokenizer_file(
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": regex},
            "behavior": "Isolated",
            "invert": False,
        }
    )


def grow(times, steps):
    one = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * times}
    return {"type": "Sequence", "normalizers": [one] * steps}


def charsmap(data):
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}


def byte_level(regex):
    """A byte-level vocabulary with a split pattern, which goes to the fast engine."""
    from langwright.tokenizer.byte_alphabet import byte_characters

    steps = json.loads(split(regex))["pre_tokenizer"]
    return tokenizer_file(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [steps, BYTE_LEVEL]},
        decoder=BYTE_LEVEL,
        model={
            "type": "BPE",
            "vocab": {one: index for index, one in enumerate(byte_characters())},
            "merges": [],
        },
    )


TOKENIZERS = {
    "nested": (b"[" * 1_000_000, "not valid JSON"),
    "brackets": (b'{"a":[' + b"{}," * 10_000_000 + b"0]}", "far too many"),
    "digits": (b'{"version": ' + b"1" * 1_000_000 + b"}", "not valid JSON"),
    "list": (b"[]", "not a JSON object"),
    "id-huge": (model(vocab={"a": 2**31}), "not a number in range"),
    "id-negative": (model(vocab={"a": -1}), "not a number in range"),
    "id-text": (model(vocab={"a": "0"}), "not a number in range"),
    "id-twice": (model(vocab={"a": 0, "b": 0}), "share one id"),
    "no-vocabulary": (model(vocab=None), "no vocabulary"),
    "empty": (model(vocab={}), "empty"),
    "merges": (model(merges=[["a", "zzz"]]), "not a tokenizer"),
    "model": (tokenizer_file(model={"type": "Evil", "vocab": {"a": 0}}), "not a tokenizer"),
    "added": (tokenizer_file(added_tokens=[{"id": 2**40, "content": "x"}]), "added_tokens"),
    "grow": (tokenizer_file(normalizer=grow(1000, 5)), "enormous"),
    "grow-by-ten": (tokenizer_file(normalizer=grow(10, 12)), "enormous"),
    "grow-one": (tokenizer_file(normalizer=grow(10**6, 1)), "enormous"),
    "grow-steps": (tokenizer_file(normalizer=grow(1, 5000)), "far too many steps"),
    "grow-deep": (
        tokenizer_file(
            normalizer={"type": "Sequence", "normalizers": [grow(8, 3), grow(8, 3), grow(8, 3)]}
        ),
        "enormous",
    ),
    "grow-decoder": (
        tokenizer_file(
            decoder={
                "type": "Sequence",
                "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}]
                * 4,
            }
        ),
        "enormous",
    ),
    "charsmap": (
        tokenizer_file(normalizer=charsmap(b"\x04\0\0\0" + b"\0" * 4 + b"x" * 10**6 + b"\0")),
        "enormous",
    ),
    "charsmap-cut": (tokenizer_file(normalizer=charsmap(b"\xff\xff\0\0x")), "cut off"),
    "charsmap-base": (
        tokenizer_file(normalizer={"type": "Precompiled", "precompiled_charsmap": "*"}),
        "no base64",
    ),
    "regex": (split("(a+)+$"), "gives up"),
    "regex-fast": (byte_level("(?:a+)+(?!a)$"), None),  # linear there, or given up
    "regex-broken": (split("(((("), "not a tokenizer"),
    "regex-deep": (split("(" * 50_000 + ")" * 50_000), "not a tokenizer"),
    "not-utf8": (b'{"\xff": 1}', "not valid JSON"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    place = tmp_path_factory.mktemp("hostile")
    plan = []
    for name, source in TEMPLATES.items():
        path = place / f"{name}.jinja"
        path.write_text(source + TALK)
        plan.append(["template", str(path)])
    for name, (content, _) in TOKENIZERS.items():
        folder = place / f"tokenizer-{name}"
        folder.mkdir()
        (folder / "tokenizer.json").write_bytes(content)
        plan.append(["tokenizer", str(folder)])
    lines = run_limited(plan, place)
    assert not list(Path(place).rglob("sprung"))
    return dict(zip([*TEMPLATES, *(f"tokenizer-{name}" for name in TOKENIZERS)], lines))


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_end(name, told):
    case = told[name]
    assert case["result"] == "refused", case
    assert "the chat template" in case["message"]
    assert case["seconds"] < 15 and case["bytes"] < 500e6


@pytest.mark.parametrize("name", REACHING)
def test_templates_see_nothing_of_python(name):
    """Nor do they tell of it: what they print, if anything, is no object's inside."""
    from langwright.base import UserError

    with pytest.raises(UserError) as error:
        ChatTemplate(TEMPLATES[name] + TALK).pieces([{"role": "user", "content": "x"}])
    assert "<class" not in str(error.value) and "root:" not in str(error.value)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_end(name, told):
    case, word = told[f"tokenizer-{name}"], TOKENIZERS[name][1]
    if word is not None:
        assert case["result"] == "refused", case
        assert word in case["message"] and f"tokenizer-{name}" in case["message"]
    assert case["result"] in ("accepted", "refused")
    assert case["seconds"] < 10 and case["bytes"] < 500e6


def test_a_pipe_is_no_tokenizer(tmp_path):
    from langwright.base import UserError
    from langwright.tokenizer import load_tokenizer

    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="not a regular file"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_file())
    os.mkfifo(tmp_path / "chat_template.jinja")
    with pytest.raises(UserError, match="not a regular file"):
        load_tokenizer(tmp_path)


def test_real_talk_is_far_below_the_budget():
    """A long conversation, walked through again for each message, as some templates do."""
    source = (
        "{% for m in messages %}{% set ns = namespace(last=0) %}"
        "{% for o in messages %}{% if o.role == 'user' %}{% set ns.last = loop.index0 %}"
        "{% endif %}{% endfor %}<{{ m.role | upper }} {{ ns.last }}>{{ m.content }}{% endfor %}"
    )
    talk = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": "x" * 1000} for i in range(300)
    ]
    pieces = ChatTemplate(source).pieces(talk)
    assert len(pieces) == 601 and pieces[0].text == "<USER 298>"
    text = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}").render(
        [{"role": "user", "content": "y" * 3_000_000}]
    )
    assert len(text) == 3_000_000
