"""`prepare import`: records of a corpus that others made."""

from __future__ import annotations

import argparse
import functools
import importlib
import pkgutil
import time

from ieat_jax.cli import add_output, path_argument
from ieat_jax.importers import corpora
from ieat_jax.importers.corpus import SPLITS, Corpus, CorpusError, Place


@functools.cache
def all_corpora() -> dict[str, Corpus]:
    """Name -> `CORPUS` of every file in `corpora/`, by name."""
    modules = [
        importlib.import_module(f"{corpora.__name__}.{found.name}") for found in pkgutil.iter_modules(corpora.__path__)
    ]
    return {corpus.name: corpus for corpus in sorted((module.CORPUS for module in modules), key=lambda one: one.name)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare import`."""
    parser.add_argument("corpus", nargs="?", metavar="CORPUS", help="which corpus; --list names them")
    parser.add_argument("folder", nargs="?", type=path_argument, metavar="FOLDER", help="where it was unpacked to")
    parser.add_argument("--list", action="store_true", help="the corpora: options, licence, where to get them")
    add_output(
        parser, "a file NAME.jsonl for all records, or a folder for a file per split", required=False, folder=None
    )
    parser.add_argument("--split", nargs="+", choices=SPLITS, help="the splits that are written (default: all)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the corpus; may stand several times"
    )
    parser.add_argument("--audio-root", type=path_argument, help="folder audio paths start from (default: FOLDER)")
    parser.add_argument("--no-listen", action="store_true", help="do not decode the recordings; they have to be there")
    parser.add_argument(
        "--max-bad-share",
        type=float,
        default=0.001,
        help="share of inputs that may be bad, and of labels that nobody may understand (default: 0.001)",
    )


def run(arguments: argparse.Namespace) -> int:
    """`prepare import`.

    Raises:
        CorpusError: no such corpus, folder or option; the folder is not that corpus.
        QuarantineError: more inputs are bad than accepted.
        LabelError: more labels are in a spelling that nobody understands.
    """
    from ieat_jax.importers.gather import Targets, import_corpus, report

    if arguments.list:
        given = [
            name for name in ("corpus", "out", "split", "option", "audio_root", "no_listen") if vars(arguments)[name]
        ]
        if given:
            names = ", ".join(arguments.corpus if name == "corpus" else f"--{name.replace('_', '-')}" for name in given)
            raise CorpusError(f"--list names all corpora and ends: leave out {names}, or --list")
        print_list()
        return 0
    if arguments.corpus is None or arguments.folder is None or arguments.out is None:
        raise CorpusError("prepare import CORPUS FOLDER --out RECORDS.jsonl; `prepare import --list` names the corpora")
    started = time.perf_counter()
    corpus = corpus_named(arguments.corpus)
    if not arguments.folder.exists():
        raise CorpusError(
            f"{arguments.folder}: no such file or folder; give the one that {corpus.title} was unpacked to"
        )
    options = options_of(corpus, arguments.option)
    place = Place(arguments.folder, options, arguments.audio_root)
    targets = Targets(arguments.out, arguments.split)
    account, labels = import_corpus(
        corpus, place, targets, max_bad_share=arguments.max_bad_share, listen=not arguments.no_listen
    )
    report(corpus, place, account, labels, targets, started)
    return 0


def corpus_named(name: str) -> Corpus:
    """The corpus of that name.

    Raises:
        CorpusError: there is none; the message names them.
    """
    found = all_corpora()
    if name not in found:
        raise CorpusError(f"{name}: no such corpus; there are {', '.join(found)}")
    return found[name]


def options_of(corpus: Corpus, given: list[str]) -> dict[str, str]:
    """The options of a corpus with what was given as NAME=VALUE.

    Raises:
        CorpusError: no such option.
    """
    options = {name: default for name, (default, _) in corpus.options.items()}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in options:
            known = ", ".join(f"{name}={default}" for name, default in options.items()) or "none"
            raise CorpusError(f"--option {text}: {corpus.name} has the options {known}")
        options[name] = value
    return options


def print_list() -> None:
    """Every corpus, its options, licence and source."""
    for corpus in all_corpora().values():
        print(f"{corpus.name}: {corpus.title}\n    {corpus.licence}\n    {corpus.source}")
        for name, (default, text) in corpus.options.items():
            print(f"    --option {name}={default}   {text}")
