"""The chat format as the Jinja template that stock software renders: the same text, so the same ids.

Thinking is opened by the prompt (`<think>` and a line break), as in Qwen3-Thinking and DeepSeek-R1, whose parsers
split a reply at `</think>`. `enable_thinking=false` asks for a reply without it. Earlier replies stand without theirs.
"""

from __future__ import annotations

from ieat_jax.text.chat import END, END_THINK, START, THINK, ChatFormat

_TEMPLATE = r"""
{%- if not messages or messages[0].role != 'system' %}{{ 'START' + 'system\n' + SYSTEM + 'END' + '\n' }}{% endif %}
{%- for message in messages %}
CONTENT
{%- if message.role == 'assistant' and 'CLOSE' in content %}
{%- set content = content.split('CLOSE')[-1].lstrip('\n') %}
{%- endif %}
{{- 'START' + message.role + '\n' + content + 'END' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'START' + 'assistant\n' }}THINKING{% endif %}"""
_THINKING = r"{{ 'OPEN' + '\n\n' + 'CLOSE' + '\n\n' if enable_thinking is defined and not enable_thinking else "
_THINKING += r"'OPEN' + '\n' }}"


# Several lines are one statement: `content` is what the parts of a list say, one after the other.
_WORDS = "{%- set content = message.content if message.content is string else '' %}"
_PARTS = r"""{%- set said = namespace(content='') %}
{%- if message.content is string %}{% set said.content = message.content %}
{%- else %}
{%- for part in message.content %}
{%- set said.content = said.content + (part.text if part.type == 'text' else 'AUDIO') %}
{%- endfor %}
{%- endif %}
{%- set content = said.content %}"""


def chat_template(chat: ChatFormat, audio: str | None = None) -> str:
    """The template of a chat format; with `audio`, which stands for a clip, a message may be a list of parts."""
    text = _TEMPLATE.strip().replace("CONTENT", _WORDS if audio is None else _PARTS)
    text = text.replace("THINKING", _THINKING if chat.thinks else "").replace("'AUDIO'", _quoted(audio or ""))
    for name, token in (("START", START), ("END", END), ("OPEN", THINK), ("CLOSE", END_THINK)):
        text = text.replace(f"'{name}'", _quoted(token))
    return text.replace("SYSTEM", _quoted(chat.system_text))


def _quoted(text: str) -> str:
    """A text as a literal of Jinja."""
    for plain, written in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, written)
    return f"'{text}'"
