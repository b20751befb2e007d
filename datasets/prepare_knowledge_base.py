#!/usr/bin/env python
"""Make and look at the knowledge base of distant supervision.

    # Captions into counts; goes on where it was stopped
    python datasets/prepare_knowledge_base.py build Train_GCC-training.tsv \\
        --vocabulary vg150 --object-aliases object_alias.txt \\
        --predicate-aliases predicate_alias.txt --workers 8 --output kb.npz
    # A published base of names
    python datasets/prepare_knowledge_base.py convert triplets.json --vocabulary vg150 \\
        --output kb.npz
    python datasets/prepare_knowledge_base.py stats kb.npz
    python datasets/prepare_knowledge_base.py show kb.npz man horse
    python datasets/prepare_knowledge_base.py merge one.npz two.npz --output both.npz

Captions: plain text with a caption a line (.txt), JSON Lines (.jsonl, key "caption" or "text"),
tab separated (.tsv, Conceptual Captions), JSON (.json: region_descriptions.json of Visual Genome,
COCO captions, relations_json with captions); each also with .gz behind its name.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.data.captions.files import FORMATS

if TYPE_CHECKING:
    from vrd_d2.data.captions.counts import Progress
    from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase


def build(args: argparse.Namespace) -> None:
    """Count the triplets of captions."""
    from tqdm import tqdm

    from vrd_d2.data.captions.build import make_parser
    from vrd_d2.data.captions.counts import count_captions
    from vrd_d2.data.captions.files import open_captions
    from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
    from vrd_d2.data.vocabulary import get_vocabulary

    files = open_captions(args.captions, args.format)
    vocabulary, aliases = get_vocabulary(args.vocabulary), _aliases(args)
    parser = make_parser(args.parser, vocabulary, model=args.model, **aliases)
    print(f"parser: {parser.name}")
    state = args.output.with_name(args.output.name + ".state")
    if args.restart:
        state.unlink(missing_ok=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    total = sum(file.size for file in files)
    with tqdm(total=total, unit="B", unit_scale=True, disable=args.quiet) as bar:

        def report(progress: "Progress") -> None:
            bar.n = sum(file.size for file in files[: progress.file]) + files[progress.file].read
            bar.set_postfix(
                captions=progress.captions, triplets=len(progress.counts), refresh=False
            )
            bar.update(0)

        done = count_captions(
            files,
            parser,
            workers=args.workers,
            state=state,
            settings={"vocabulary": vocabulary, **aliases},
            report=report,
        )
    for file, broken, first in zip(files, done.broken, done.first_broken, strict=True):
        if broken:
            print(f"{file.path}: {broken} broken records left out; the first of each kind: {first}")
    if not done.counts:
        raise ValueError(
            f"no triplet of the vocabulary in {done.captions} captions: check --vocabulary"
        )
    names = ", ".join(file.path.name for file in files)
    source = (
        f"{done.captions} captions of {names}, {done.with_triplets} with a triplet, "
        f"by {parser.name}"
    )
    base = KnowledgeBase.from_counts(vocabulary, done.counts, sources=[source])
    base.save(args.output)
    state.unlink(missing_ok=True)
    rate = (done.captions - done.resumed) / max(time.monotonic() - started, 1e-9)
    print(f"{source}; {rate:.0f} captions/s")
    print(f"{args.output}: {_size(base)}")


def convert(args: argparse.Namespace) -> None:
    """Turn a published base into one of this project."""
    from vrd_d2.data.knowledge.published_bases import read_ready_base
    from vrd_d2.data.vocabulary import get_vocabulary

    vocabulary = get_vocabulary(args.vocabulary)
    base, coverage = read_ready_base(args.base, vocabulary, split=args.split, **_aliases(args))
    base.save(args.output)
    print(f"{args.base}: {coverage}")
    print(f"{args.output}: {_size(base)}")


def stats(args: argparse.Namespace) -> None:
    """Print the size of a base, and its most frequent triplets."""
    import numpy as np

    from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase

    base = KnowledgeBase.load(args.base)
    objects, predicates = base.vocabulary.objects, base.vocabulary.predicates
    for source in base.sources:
        print(f"made from {source}")
    print(_size(base))
    triplets, counts = base.triplets, base.triplet_counts
    pairs = triplets[:, 0] * len(objects) + triplets[:, 2]
    per_pair = np.unique(pairs, return_counts=True)[1]
    share = base.pairs / len(objects) ** 2
    print(f"{share:.1%} of {len(objects)}^2 pairs of classes have a candidate")
    if not len(base):
        return
    print(
        f"predicates per pair: mean {per_pair.mean():.2f}, median {np.median(per_pair):.0f}, "
        f"most {per_pair.max()}; {np.mean(per_pair == 1):.1%} of the pairs have one"
    )
    print(f"triplets told once: {np.mean(counts == 1):.1%}")
    print("most frequent triplets:")
    for row in np.argsort(-counts, kind="stable")[: args.top]:
        s, p, o = triplets[row]
        print(f"  {counts[row]:8d}  {objects[s]} | {predicates[p]} | {objects[o]}")
    print("predicates:")
    totals = np.bincount(triplets[:, 1], weights=counts, minlength=len(predicates)).astype(int)
    for index in np.argsort(-totals, kind="stable"):
        print(f"  {totals[index]:8d}  {predicates[index]}")


def show(args: argparse.Namespace) -> None:
    """Print the predicates of a pair of classes."""
    import numpy as np

    from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase

    base = KnowledgeBase.load(args.base)
    ids = [np.array([base.vocabulary.object_id(name)]) for name in (args.subject, args.object)]
    counts = base.counts(*ids, min_count=args.min_count)[0]
    if not counts.any():
        print(f"nothing about {args.subject} and {args.object}: such a pair is background")
    for index in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]:
        share = counts[index] / counts.sum()
        print(f"{counts[index]:8d}  {share:6.1%}  {base.vocabulary.predicates[index]}")


def merge_files(args: argparse.Namespace) -> None:
    """Write the sum of several bases."""
    from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase, merge

    base = merge(KnowledgeBase.load(path) for path in args.bases)
    base.save(args.output)
    print(f"{args.output}: {_size(base)}")


def _size(base: "KnowledgeBase") -> str:
    return (
        f"{len(base)} triplets of {base.pairs} pairs of classes, "
        f"{int(base.triplet_counts.sum())} counts"
    )


def _aliases(args: argparse.Namespace) -> dict[str, dict[str, str] | None]:
    from vrd_d2.data.names import read_aliases

    return {
        f"{kind}_aliases": read_aliases(path) if path is not None else None
        for kind, path in (("object", args.object_aliases), ("predicate", args.predicate_aliases))
    }


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    names = argparse.ArgumentParser(add_help=False)
    names.add_argument("--vocabulary", required=True, help="vg150, vg20, vrd, scenes, or a JSON")
    names.add_argument("--object-aliases", type=Path, help="lines 'name,alias,alias,...'")
    names.add_argument("--predicate-aliases", type=Path)
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", type=Path, required=True, help="the knowledge base, .npz")

    command = commands.add_parser("build", parents=[names, output], help="captions into a base")
    command.set_defaults(run=build)
    command.add_argument("captions", nargs="+", type=Path)
    command.add_argument("--format", choices=sorted(set(FORMATS.values())), help="of all files")
    command.add_argument(
        "--parser",
        choices=["auto", "matcher", "spacy"],
        default="auto",
        help="auto: spaCy if it and the model are installed, else the matcher",
    )
    command.add_argument("--model", default="en_core_web_sm", help="spaCy's, a name or a folder")
    command.add_argument("--workers", type=int, default=1, help="processes that parse")
    command.add_argument("--restart", action="store_true", help="forget an interrupted run")
    command.add_argument("--quiet", action="store_true", help="no progress bar")

    command = commands.add_parser("convert", parents=[names, output], help="a published base")
    command.set_defaults(run=convert)
    command.add_argument("base", type=Path, help="JSON of 'subject|predicate|object' or VisualDS's")
    command.add_argument("--split", default="train", help="of a file that has splits")

    command = commands.add_parser("stats", help="size and most frequent triplets")
    command.set_defaults(run=stats)
    command.add_argument("base", type=Path)
    command.add_argument("--top", type=int, default=20, help="triplets to list")

    command = commands.add_parser("show", help="predicates of a pair of classes")
    command.set_defaults(run=show)
    command.add_argument("base", type=Path)
    command.add_argument("subject")
    command.add_argument("object")
    command.add_argument("--min-count", type=int, default=1)

    command = commands.add_parser("merge", parents=[output], help="the sum of bases")
    command.set_defaults(run=merge_files)
    command.add_argument("bases", nargs="+", type=Path)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run the command that was given."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
