"""A checkpoint's chat template says what transformers makes of it, in bounds, and nothing else."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="the extra [serve] is not installed")

from dflash_sim.profiles.errors import UsageError
from dflash_sim.serve import template
from dflash_sim.serve.backend import RefusedError
from dflash_sim.serve.bodies import Chat, read_body, turns_of
from dflash_sim.serve.template import Template, read_template

CHATML = """
{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
ODD = """{{ bos_token }}{% set ns = namespace(found=false, last=none) %}
{% for m in messages %}
  {% if m.role == 'system' %}{% set ns.found = true %}{% continue %}{% endif %}
  {% generation %}{% set ns.last = m %}{{ m | tojson }}{% endgeneration %}
  {% if loop.index > 2 %}{% break %}{% endif %}
{% endfor %}
{{ ns.found }} {{ ns.last.content[:2] }} {{ dict(a=1) | tojson(indent=2) }} {{ pad_token }}
{{ messages | map(attribute='role') | join(',') }} {{ 'x' is string }} {{ tools is none }}
"""
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": ' Wie hei\u00dft "das"? <b> \U0001f600 '},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And now?"},
    {"role": "user", "content": "Not said."},
]


def given(turns: Any = TURNS, **options: Any) -> dict[str, Any]:
    own = {"messages": turns, "tools": None, "documents": None, "add_generation_prompt": True}
    return {**options, **own}


@pytest.fixture
def chatml() -> Iterator[Template]:
    made = Template(CHATML, {})
    yield made
    made.close()


def test_a_conversation_is_as_the_template_has_it(chatml: Template) -> None:
    hello = [{"role": "user", "content": "  Hi "}]
    opening = "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert chatml.render(given(hello)) == opening + "<|im_start|>assistant\n"
    silent = chatml.render(given(hello, enable_thinking=False))
    assert silent == opening + "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.slow
@pytest.mark.parametrize("text", [CHATML, ODD])
def test_it_is_what_transformers_makes_of_it(text: str) -> None:
    ours = pytest.importorskip("transformers.utils.chat_template_utils")
    tokens = {"bos_token": "<s>"}
    (expected,), _ = ours.render_jinja_template(
        [TURNS], chat_template=text, add_generation_prompt=True, **tokens
    )
    made = Template(text, tokens)
    assert made.render(given()) == expected
    made.close()


def test_a_process_that_ends_by_itself_is_told_from_one_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(template.sys, "executable", "/bin/true")
    made = Template(CHATML, {})
    with pytest.raises(RefusedError, match="ended by itself"):
        made.render(given())
    made.close()


def test_a_message_without_content_is_empty_and_calls_are_objects() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    first, second = turns_of(read_body(Chat, {"messages": said}))
    assert first == {"role": "user", "content": "x"}
    assert second["content"] == ""
    assert second["tool_calls"][0]["function"]["arguments"] == {"x": 1}


HOSTILE = [
    ("{{ raise_exception('Roles must\nalternate.') }}", "not take them: Roles must alternate.$"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe"),
    ("{{ namespace(__class__=1) }}", "no name for a template"),
    ("{% set ns = namespace() %}{% set ns.__init__ = 1 %}", "no name for a template"),
    ("{{ 'a' * 10 ** 11 }}", "more memory than a template may"),
    ("{% for i in range(9999) %}{{ 'a' * 99999 }}{% endfor %}", "more than 64 Mi letters"),
    ("{{ messages[0].content + 1 }}", "str"),
    ("{% for %}", "Expected an expression"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "said"), HOSTILE)
def test_what_a_template_may_not_is_refused_in_a_line(text: str, said: str) -> None:
    made = Template(text, {})
    for _ in range(2):
        with pytest.raises(RefusedError, match=said) as refused:
            made.render(given())
        assert refused.value.status == 400
        assert "\n" not in str(refused.value)
    made.close()


def test_a_template_without_end_is_ended_and_the_next_starts_anew(
    chatml: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a process that somebody killed meanwhile is none that answers."""
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    made = Template("{% if messages %}" + endless + "{% endif %}said", {})
    assert made.render(given([])) == "said"
    process = made._process
    assert process is not None
    monkeypatch.setattr(template, "RENDERING_S", 0.05)
    with pytest.raises(RefusedError, match=r"does not end within 0\.05 s"):
        made.render(given())
    assert process.poll() is not None
    monkeypatch.undo()
    assert made.render(given([])) == "said"
    killed = made._process
    assert killed is not None
    os.kill(killed.pid, 9)
    killed.wait()
    assert made.render(given([])) == "said"
    made.close()


def test_it_lies_where_transformers_looks_for_it(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    assert read_template(tmp_path) is None
    config.write_text(json.dumps({"bos_token": "<s>", "add_bos_token": True}))
    assert read_template(tmp_path) is None

    def found() -> Any:
        made = read_template(tmp_path)
        return made and made._first

    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}
    config.write_text(json.dumps({**tokens, "pad_token": None, "chat_template": "old"}))
    said = {"bos_token": "<s>", "eos_token": "</s>"}
    assert found() == {"template": "old", "tokens": said}
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    config.write_text(json.dumps({**tokens, "chat_template": several}))
    assert found() == {"template": "yes", "tokens": said}
    (tmp_path / "chat_template.jinja").write_text("newer")
    assert found() == {"template": "newer", "tokens": said}
    (tmp_path / "chat_template.jinja").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(UsageError, match=r"chat_template\.jinja"):
        read_template(tmp_path)
    config.write_text("[")
    with pytest.raises(UsageError, match=r"tokenizer_config\.json"):
        read_template(tmp_path)
