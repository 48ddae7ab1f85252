"""Serve a trained run to programs that speak OpenAI's protocol, and to people with a browser and a microphone.

    python -m ieat_jax.serve --checkpoint RUN

The page to talk to it is http://127.0.0.1:8000/, the endpoint is below /v1 (chat/completions, models), and /health says
whether it is alive. Speech goes in as input_audio, and comes out with "modalities": ["text", "audio"]; thinking is
reasoning_content. One model answers one request at a time; the others wait. SIGTERM ends it with 0.

It listens to this machine alone unless --host says otherwise: there is no password, and browsers give a microphone only
to pages of their own machine, or behind https. It needs the extra `serve`: pip install -e '.[serve]'.
"""

import argparse
import importlib.util
import signal
import socket
import sys
from pathlib import Path

from ieat_jax.cli import exit_with, parser_of
from ieat_jax.errors import UserError
from ieat_jax.serving.options import add_options, load_generator

ENDING = 10.0  # seconds that connections have to take their last words


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serve", __doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 = any that is free (default: 8000)")
    parser.add_argument("--queue", type=int, default=8, help="most requests that wait; more are refused (default: 8)")
    parser.add_argument("--max-prompt", type=int, default=4096, help="most tokens of a conversation (default: 4096)")
    add_options(parser)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    if importlib.util.find_spec("aiohttp") is None:
        raise UserError("serve: aiohttp is not installed; pip install -e '.[serve]'")
    for flag, value, least in (("--queue", arguments.queue, 0), ("--max-prompt", arguments.max_prompt, 1)):
        if value < least:
            raise UserError(f"serve: {flag} is {value}; it must be at least {least}")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens before the model is loaded: a port that is taken is told at once."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"serve: cannot listen at --host {host} --port {port} ({reason}); give another") from error


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # while the model is loaded; then the server's own
    with _listen(arguments.host, arguments.port) as listening:
        _serve(arguments, listening)
    return 0


def _serve(arguments: argparse.Namespace, listening: socket.socket) -> None:
    generator = load_generator(arguments)
    from aiohttp import web

    from ieat_jax.serving.app import Endpoint, make_app
    from ieat_jax.serving.request import Served

    served = Served(
        model=Path(arguments.checkpoint).resolve().name,
        clip_seconds=generator.config.listen.clip_seconds,
        system_text=generator.chat.system_text,
        thinks=generator.chat.thinks,
        speaks=generator.model.speak is not None and generator.codec is not None,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
    )
    endpoint = Endpoint(generator, served, most_waiting=arguments.queue, max_prompt=arguments.max_prompt)
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    web.run_app(
        make_app(endpoint),
        sock=listening,
        access_log=None,
        handler_cancellation=True,  # a client that hangs up frees the model
        shutdown_timeout=ENDING,
        print=lambda _: print(f"{served.model} answers at {address}/ (page) and {address}/v1 (OpenAI)", flush=True),
    )


if __name__ == "__main__":
    exit_with(main)
