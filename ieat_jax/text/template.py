"""The chat format as the Jinja template that stock software renders: the same text, so the same ids.

Thinking is opened by the prompt (`<think>` and a line break), as in Qwen3-Thinking and DeepSeek-R1, whose parsers
split a reply at `</think>`. `enable_thinking=false` asks for a reply without it. Earlier replies stand without theirs.
"""

from __future__ import annotations

from ieat_jax.text.chat import END, END_THINK, START, THINK, ChatFormat

_TEMPLATE = r"""
{%- if not messages or messages[0].role != 'system' %}{{ 'START' + 'system\n' + SYSTEM + 'END' + '\n' }}{% endif %}
{%- for message in messages %}
{%- set content = message.content if message.content is string else '' %}
{%- if message.role == 'assistant' and 'CLOSE' in content %}
{%- set content = content.split('CLOSE')[-1].lstrip('\n') %}
{%- endif %}
{{- 'START' + message.role + '\n' + content + 'END' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'START' + 'assistant\n' }}THINKING{% endif %}"""
_THINKING = r"{{ 'OPEN' + '\n\n' + 'CLOSE' + '\n\n' if enable_thinking is defined and not enable_thinking else "
_THINKING += r"'OPEN' + '\n' }}"


def chat_template(chat: ChatFormat) -> str:
    """The template of a chat format."""
    text = _TEMPLATE.strip().replace("THINKING", _THINKING if chat.thinks else "")
    for name, token in (("START", START), ("END", END), ("OPEN", THINK), ("CLOSE", END_THINK)):
        text = text.replace(f"'{name}'", _quoted(token))
    return text.replace("SYSTEM", _quoted(chat.system_text))


def _quoted(text: str) -> str:
    """A text as a literal of Jinja."""
    for plain, written in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, written)
    return f"'{text}'"
