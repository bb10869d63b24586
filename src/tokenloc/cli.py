"""The command line: the public functions that are commands. Flags, YAML keys and help come from their signatures."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from importlib.resources import files
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser

from tokenloc._names import unknown_name
from tokenloc._recipes import recipe_file
from tokenloc.commands.console import IncompleteError, print_message

Command = Callable[..., Any]

COMMANDS = {
    "demo": "demo.demo",
    "train": "train.train",
    "evaluate": "evaluate.evaluate",
    "calibrate": "evaluate.calibrate",
    "compare": "compare.compare_runs",
    "report": "report.report",
    "localize": "localize.localize",
    "localize-ray": "localize_ray.localize_ray",
    "export": "export.export",
    "serve": "serve.serve",
    "list": "catalogue.list_names",
    "info": "catalogue.info",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 where it was not all done, 2 for a mistake in the input.

    Mistakes are told in words, without a traceback.
    """
    words = [_underscored(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    parser, commands = _make_parser([word for word in words if word in COMMANDS][:1])
    try:
        words = _with_recipes(words)
    except ValueError as error:
        return _print_message(f"tokenloc: {error}", status=2)
    settings = parser.instantiate(parser.parse_args(words))
    name = settings.subcommand
    values = {key: value for key, value in vars(settings[name]).items() if key not in ("config", "__default_config__")}
    try:
        commands[name](**values)
    except IncompleteError as error:
        return _print_message(str(error), status=1)
    except (ValueError, OSError, ImportError) as error:
        return _print_message(f"tokenloc {name}: {error}", status=2)
    except KeyboardInterrupt as end:
        return _print_message(f"tokenloc {name}: {str(end) or 'interrupted'}", status=130)
    return 0


def _underscored(word: str) -> str:
    """Return a flag with underscores for dashes, as parameters have them: both ways of writing are understood.

    >>> _underscored("--save-maps=my-maps"), _underscored("my-maps")
    ('--save_maps=my-maps', 'my-maps')
    """
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if word.startswith("--") else word


def _with_recipes(words: Sequence[str]) -> list[str]:
    """Return ``words`` with the file in place of a recipe's name.

    >>> _with_recipes(["train", "--seed", "1"])
    ['train', '--seed', '1']
    """
    found = list(words)
    for place, (before, word) in enumerate(zip(["", *words], words, strict=False)):
        if before == "--config":
            found[place] = recipe_file(word)
        elif word.startswith("--config="):
            found[place] = "--config=" + recipe_file(word.removeprefix("--config="))
    return found


class _Parser(ArgumentParser):
    """Names the nearest option where a recipe has one that there is not."""

    options: Collection[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End as every mistake in the input does."""
        unknown = re.search(r"does not accept option '([^']+)'", message)
        if unknown is None:
            super().error(message, ex)
        sys.exit(_print_message(f"tokenloc: {unknown_name('option', unknown[1], self.options)}", status=2))


def _print_message(message: str, status: int) -> int:
    print_message(message)
    return status


def _make_parser(wanted: Collection[str] = tuple(COMMANDS)) -> tuple[_Parser, dict[str, Command]]:
    """Return a parser that knows all commands by name, and the ``wanted`` ones, which it imports, with their flags."""
    parser = _Parser(prog="tokenloc", description="Learn to draw boxes from image labels alone.")
    subcommands = parser.add_subcommands()
    commands: dict[str, Command] = {}
    for name, place in COMMANDS.items():
        module, function = place.split(".")
        subparser = ArgumentParser()
        if name in wanted:
            commands[name] = getattr(import_module(f"tokenloc.commands.{module}"), function)
            subparser = _command_parser(commands[name])
            parser.options = list(subparser.get_defaults().keys())
        subcommands.add_subcommand(name, subparser, help=_summary(module, function))
    return parser, commands


def _summary(module: str, function: str) -> str | None:
    """Return the first sentence about a command from its source: importing it takes seconds, mostly for torch."""
    source = files("tokenloc.commands").joinpath(f"{module}.py").read_text(encoding="utf-8")
    (found,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == function)
    doc = ast.get_docstring(found) if isinstance(found, ast.FunctionDef) else None
    return docstring_parser.parse(doc or "").short_description


def _doc(command: Command) -> str:
    return inspect.getdoc(command) or ""


def _command_parser(command: Command) -> ArgumentParser:
    """Return a parser of a function's parameters: what may be given by place has no flag, keyword-only ones have."""
    doc = docstring_parser.parse(_doc(command))
    described = {entry.arg_name: entry.description for entry in doc.params}
    hints = get_type_hints(command)
    parser = ArgumentParser(description=f"{doc.short_description}\n\n{doc.long_description or ''}".strip())
    parser.add_argument("--config", action="config", help="a YAML file of these options")
    by_hand: set[str | int] = set()
    for name, parameter in inspect.signature(command).parameters.items():
        form = _form(parameter, hints[name])
        if form is not None:
            flag = f"--{name}" if parameter.kind is parameter.KEYWORD_ONLY else name
            parser.add_argument(flag, help=described.get(name), **form)
            by_hand.add(name)
    parser.add_function_arguments(command, as_group=False, skip=by_hand)
    return parser


def _form(parameter: inspect.Parameter, hint: Any) -> dict[str, Any] | None:
    """Return how a parameter is written on the command line where jsonargparse would want it otherwise."""
    default = {} if parameter.default is parameter.empty else {"default": parameter.default}
    lists = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is list]  # also list[...] | None
    if lists:
        return {"nargs": "+", "type": get_args(lists[0])[0], **default}
    if parameter.kind is not parameter.KEYWORD_ONLY:
        return {"type": hint, **({"nargs": "?"} if default else {}), **default}
    if hint is bool and parameter.default is False:
        return {"action": "store_true"}
    return None


if __name__ == "__main__":
    sys.exit(main())
