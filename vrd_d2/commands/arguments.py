"""Arguments alike in all tools: one parser, one exit code of wrong commands, one way to override.

Needs nothing but the standard library, so that `--help` costs nothing.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vrd_d2.addresses import refuse_address

# What stands at the top of Detectron2's configs: sections, and keys without a section.
SECTIONS = ("DATALOADER", "DATASETS", "GLOBAL", "INPUT", "MODEL", "SOLVER", "TEST")
TOP_KEYS = ("CUDNN_BENCHMARK", "OUTPUT_DIR", "SEED", "VERSION", "VIS_PERIOD")
# Arguments that may be an internet address; all others that look like one are meant as files.
ADDRESSES = ("weights", "dist_url", "title", "opts", "old_opts", "host")
OVERRIDES_HELP = "overrides of the config, at the end of the command: KEY VALUE KEY VALUE ..."


class Parser(argparse.ArgumentParser):
    """A parser whose wrong commands exit with 1, as other errors do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **options)
        self._takes_overrides = False
        self._inputs: str | None = None  # positional arguments that stand before overrides
        self._old_option = ""

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, and exit with 1."""
        inputs = [action.metavar for action in self._actions if action.dest == self._inputs]
        if inputs and message.endswith(inputs[0]):
            # An option with several values has taken it.
            message += "; write it first, before the options"
        self.print_usage(sys.stderr)
        self.exit(1, f"error: {message}\n")

    def add_overrides(self, *, after: str | None = None, old_option: str | None = None) -> None:
        """Take KEY VALUE pairs at the end, which become `opts`, as Detectron2's own parser does.

        Args:
            after: name of positional arguments, which the pairs follow. The key of a pair, which
                begins with a section of the config, distinguishes it from them.
            old_option: a former way to write them, which still works, with a warning.
        """
        self._takes_overrides, self._inputs = True, after
        options = {"nargs": "*", "default": []} if after else {"nargs": argparse.REMAINDER}
        self.add_argument("opts", metavar="KEY VALUE", help=OVERRIDES_HELP, **options)
        if old_option:
            self.add_argument(old_option, nargs="*", dest="old_opts", help=argparse.SUPPRESS)
            self._old_option = old_option

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse a command; pairs at its end belong to no option, even one with several values."""
        argv = list(sys.argv[1:] if args is None else args)
        if not self._takes_overrides:
            found = super().parse_args(argv, namespace)
            self._refuse_addresses(found)
            return found
        argv = self._options_first(argv)
        start = self._start_of_overrides(argv)
        found = super().parse_args(argv[:start], namespace)
        old = vars(found).pop("old_opts", None)
        if old is not None:
            print(
                f"DeprecationWarning: {self._old_option} goes with the next release: write KEY "
                "VALUE pairs at the end of the command",
                file=sys.stderr,
            )
        found.opts = [*(old or ()), *found.opts, *argv[start:]]
        for text in getattr(found, self._inputs) if self._inputs else ():
            if is_key(str(text)) and not os.path.exists(text):
                self.error(f"{text} is a key of the config: KEY VALUE pairs stand at the end")
        self._refuse_addresses(found)
        return found

    def _refuse_addresses(self, found: argparse.Namespace) -> None:
        """End with 1 where an internet address is given for a file."""
        for name, value in vars(found).items():
            if name in ADDRESSES:
                continue
            for text in _flat(value):
                try:
                    refuse_address(text)
                    if isinstance(text, str):
                        refuse_address(text.partition("=")[2])  # NAME=FILE
                except ValueError as error:
                    self.error(str(error))

    def _options_first(self, argv: list[str]) -> list[str]:
        """Move options behind the pairs (... SEED 1 --resume) to the front, where they belong."""
        if not any(map(is_key, argv)):
            return argv
        takes = {
            name: {0: 0, None: 1}.get(action.nargs)
            for action in self._actions
            for name in action.option_strings
        }
        for values in (0, 1, 0, 1):
            while len(argv) > values + 1 and takes.get(argv[-1 - values]) == values:
                if is_key(argv[-2 - values]):  # its value
                    break
                argv = [*argv[-1 - values :], *argv[: -1 - values]]
        return argv

    def _start_of_overrides(self, argv: Sequence[str]) -> int:
        """Return where the KEY VALUE pairs at the end begin."""
        start = len(argv)
        while start >= 2 and is_key(argv[start - 2]):
            if self._inputs and os.path.exists(argv[start - 2]):
                self.error(
                    f"{argv[start - 2]} is a key of the config and a file: write "
                    f"./{argv[start - 2]} for the file"
                )
            start -= 2
        last = argv[-1] if argv else ""
        if start == len(argv) and is_key(last) and not os.path.exists(last):
            self.error(f"{last} has no value: overrides are KEY VALUE KEY VALUE ...")
        return start


def add_annotated_pairs(parser: argparse.ArgumentParser) -> None:
    """Add --annotated-pairs and --no-annotated-pairs; without them `annotated_pairs` is None."""
    parser.add_argument(
        "--annotated-pairs",
        action=argparse.BooleanOptionalAction,
        help="rank the annotated pairs alone (predcls and sgcls); without it as the protocol does: "
        "vrd ranks them, the others all pairs",
    )


def keep_inputs(output: str | os.PathLike, *inputs: str | os.PathLike) -> None:
    """Raise ValueError if what will be written is one of the files that are read."""
    for source in inputs:
        if os.path.isfile(output) and os.path.isfile(source) and os.path.samefile(output, source):
            raise ValueError(f"{output} would replace {source}, which is read: name another file")


def _flat(value: Any) -> list:
    """Return the items of a list of lists, or the value alone."""
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in _flat(part)]
    return [value]


def is_key(text: str) -> bool:
    """Return whether a word can only be a key of the config, such as MODEL.WEIGHTS."""
    section, dot, key = text.partition(".")
    return text in TOP_KEYS or (section in SECTIONS and bool(dot) and key.isupper())
