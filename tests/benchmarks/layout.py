"""Laying out rows: seconds and tokenizer calls of a row, today's code beside another checkout's, runs interleaved.

    python tests/benchmarks/layout.py --before /path/to/another/checkout --rows 3 --runs 3

Rows are those of the two large recipes, from dialogues with the turns and words of RECCON where `../shared/data` or
IEAT_SHARED_DATA has it, else of lengths drawn alike. Clips are zeros: reading sound is not measured. Both checkouts
must give the same arrays; the last column says so.
"""

import argparse
import functools
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("IEAT_SHARED_DATA", ROOT.parent / "shared" / "data"))


def dialogues_of_text():
    """[[(words of the user, words of the reply)]] of RECCON's training dialogues, or drawn with such lengths."""
    path = SHARED / "reccon" / "dailydialog_train.json"
    if path.is_file():
        raw = json.loads(path.read_text(encoding="utf-8"))
        said = [[turn["utterance"] for turn in value[0]] for value in raw.values()]
    else:
        import random

        draw = random.Random(0)
        words = tuple("the user feels sad because i lost my keys and you are so kind".split())  # noqa: SIM905
        turns = [range(draw.randint(4, 16)) for _ in range(800)]
        said = [[" ".join(draw.choices(words, k=draw.randint(3, 25))) for _ in each] for each in turns]
    return [list(zip(turns[::2], turns[1::2], strict=False)) for turns in said if len(turns) > 1]


def measure(recipe, rows):
    """Lay out rows with the package of the current folder; prints JSON."""
    import importlib.util

    import numpy as np

    from ieat_jax.config.sections import Shapes
    from ieat_jax.data import layout
    from ieat_jax.data.arrays import Clip
    from ieat_jax.data.layout import LayoutOptions, TurnPlan
    from ieat_jax.text.chat import ChatFormat
    from ieat_jax.text.tokenizer import train_tokenizer

    spec = importlib.util.spec_from_file_location("recipe", f"configs/{recipe}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("goat_8b")
    speech = recipe == "joint"
    wanted = dict(config.data.shapes)
    shapes = Shapes(**(wanted | ({"teacher_tokens": 0} if speech else {"speak": 0, "groups": 0})))
    options = LayoutOptions(teacher=not speech, speech=speech, internalise=speech, unit_end=4096)
    texts = dialogues_of_text()
    tokenizer = train_tokenizer([" ".join(turn) for dialogue in texts[:200] for turn in dialogue], 2000)
    calls = 0

    class Counting:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def encode(self, text):
            nonlocal calls
            calls += 1
            return tokenizer.encode(text)

    chat = ChatFormat(Counting(), True, "You are a helpful assistant.")
    mel = np.zeros((300, 2), np.float32)
    rng = np.random.default_rng(0)
    seconds, digest = [], hashlib.sha256()
    for row in range(-1, rows):
        plans = []
        for place in range(config.data.pack):
            turns = texts[(row * config.data.pack + place) % len(texts)]
            plans.append(
                [
                    TurnPlan(
                        Clip(mel, int(rng.integers(8, 40)), 0), "", f"{user} (sad)",
                        {"perceive": f'The user says "{user}".', "state": "The user is sad.", "plan": "I comfort."},
                        reply, units=rng.integers(0, 4096, 12 * len(reply.split())).tolist() if speech else None,
                    )
                    for user, reply in turns
                ]
            )  # fmt: skip
        if row < 0:
            chat.system()  # the format's own pieces become tokens here
        began, calls = time.perf_counter(), 0
        memory = functools.cache(chat.tokenizer.encode)
        for dialogue in () if hasattr(layout, "AudioPlaces") else plans:  # before rows were planned, each was tried
            if hasattr(layout, "check_alone"):
                layout.check_alone(dialogue[0], chat, shapes, options, memory)
            else:
                layout.lay_out([dialogue[:1]], chat, shapes, options, frames=300, mels=2, positions_per_clip=40)
        extra = {"encode": memory} if hasattr(layout, "check_alone") else {}
        made, _ = layout.lay_out(plans, chat, shapes, options, frames=300, mels=2, positions_per_clip=40, **extra)
        if row >= 0:
            seconds.append(time.perf_counter() - began)
            for name in sorted(vars(made)):
                digest.update(np.ascontiguousarray(getattr(made, name)).tobytes())
    print(json.dumps({"seconds": statistics.median(seconds), "calls": calls, "hash": digest.hexdigest()[:12]}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, metavar="CHECKOUT", help="what to compare with")
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", metavar="RECIPE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure, arguments.rows)
    print(f"{'recipe':8}{'seconds a row':>24}{'ratio':>8}{'tokenizer calls':>22}  same arrays")
    for recipe in ("align", "joint"):
        found = {"before": [], "now": []}
        for _ in range(arguments.runs):
            for name, tree in (("before", arguments.before.resolve()), ("now", ROOT)):
                command = [
                    sys.executable,
                    __file__,
                    "--before",
                    ".",
                    "--rows",
                    str(arguments.rows),
                    "--measure",
                    recipe,
                ]
                environment = os.environ | {"PYTHONPATH": str(tree), "IEAT_SHARED_DATA": str(SHARED)}
                run = subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True, text=True)
                found[name].append(json.loads(run.stdout.splitlines()[-1]))
        before, now = (statistics.median(each["seconds"] for each in found[name]) for name in ("before", "now"))
        calls = " -> ".join(f"{found[name][0]['calls']:,}" for name in ("before", "now"))
        same = len({each["hash"] for runs in found.values() for each in runs}) == 1
        print(f"{recipe:8}{f'{before:.3f} -> {now:.3f}':>24}{before / now:>8.0f}{calls:>22}  {'yes' if same else 'NO'}")
    return None


if __name__ == "__main__":
    main()
