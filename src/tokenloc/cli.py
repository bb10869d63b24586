"""The command line. Flags, YAML keys and help texts come from the signatures and docstrings of the commands."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser

from tokenloc._names import unknown_name
from tokenloc.commands.console import IncompleteError, print_message
from tokenloc.commands.recipes import recipe_file

Command = Callable[..., Any]

COMMANDS = {
    "demo": ("demo.demo", "Compare the methods on generated scenes, without any download."),
    "train": ("train.train", "Train a method on images and their class labels, then calibrate and evaluate it."),
    "evaluate": ("evaluate.evaluate", "Evaluate a checkpoint, or maps of any code, on a dataset."),
    "calibrate": ("evaluate.calibrate", "Choose the map threshold on a held-out split with boxes."),
    "compare": ("compare.compare_runs", "Compare runs, with the mean and spread of repeats."),
    "report": ("report.report", "Write one HTML file about a run, or several side by side."),
    "localize": ("localize.localize", "Draw boxes on images: files, or folders with everything below them."),
    "localize-ray": ("localize_ray.localize_ray", "Draw boxes on images with Ray, on one machine or a cluster."),
    "export": ("export.export", "Export a model to ONNX, with its classes, preprocessing and threshold."),
    "serve": ("serve.serve", "Serve a web page and a REST API."),
    "list": ("catalogue.list_names", "List methods, backbones, datasets, protocols or recipes."),
    "info": ("catalogue.info", "Describe a checkpoint, or check a dataset for broken files."),
}
"""Function and summary of each command; importing all functions for their docstrings would take seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 if some of the work could not be done, 2 for invalid input.

    Invalid input is reported in one message, without a traceback.
    """
    words = [_with_underscores(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    parser, commands = _make_parser([word for word in words if word in COMMANDS][:1])
    try:
        settings = parser.instantiate(parser.parse_args(_resolve_recipes(words)))
    except ValueError as error:
        return _exit(f"tokenloc: {error}", status=2)
    name = settings.subcommand
    values = {key: value for key, value in vars(settings[name]).items() if key not in ("config", "__default_config__")}
    try:
        commands[name](**_group_flags(commands[name], values))
    except IncompleteError as error:
        return _exit(str(error), status=1)
    except (ValueError, OSError, ImportError) as error:
        return _exit(f"tokenloc {name}: {error}", status=2)
    except KeyboardInterrupt as error:
        return _exit(f"tokenloc {name}: {str(error) or 'interrupted'}", status=130)
    return 0


def _exit(message: str, status: int) -> int:
    print_message(message)
    return status


def _with_underscores(word: str) -> str:
    """Return a flag with underscores for dashes, as in parameter names; both spellings are accepted.

    >>> _with_underscores("--save-maps=my-maps"), _with_underscores("my-maps")
    ('--save_maps=my-maps', 'my-maps')
    """
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if word.startswith("--") else word


def _resolve_recipes(words: Sequence[str]) -> list[str]:
    """Replace the recipe names after ``--config`` by files.

    >>> _resolve_recipes(["train", "--seed", "1"])
    ['train', '--seed', '1']
    """
    resolved = list(words)
    for index, (before, word) in enumerate(zip(["", *words], words, strict=False)):
        if before == "--config":
            resolved[index] = recipe_file(word)
        elif word.startswith("--config="):
            resolved[index] = "--config=" + recipe_file(word.removeprefix("--config="))
    return resolved


class _Parser(ArgumentParser):
    """Suggests the nearest option if a recipe has an unknown one."""

    options: Collection[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit like any other invalid input."""
        unknown = re.search(r"does not accept option '([^']+)'", message)
        if unknown is None:
            super().error(message, ex)
        sys.exit(_exit(f"tokenloc: {unknown_name('option', unknown[1], self.options)}", status=2))


def _make_parser(wanted: Collection[str] = tuple(COMMANDS)) -> tuple[_Parser, dict[str, Command]]:
    """Return a parser that knows the names of all commands, and the flags of the ``wanted`` ones, which it imports."""
    parser = _Parser(prog="tokenloc", description="Learn to draw boxes from image labels alone.")
    subcommands = parser.add_subcommands()
    commands: dict[str, Command] = {}
    for name, (path, summary) in COMMANDS.items():
        subparser = ArgumentParser()
        if name in wanted:
            module, function = path.split(".")
            commands[name] = getattr(import_module(f"tokenloc.commands.{module}"), function)
            subparser = _command_parser(commands[name])
            parser.options = list(subparser.get_defaults().keys())
        subcommands.add_subcommand(name, subparser, help=summary)
    return parser, commands


@dataclass(frozen=True)
class _Flag:
    """A parameter of a command, or a field of its prediction options."""

    name: str
    hint: Any
    default: Any
    help: str | None
    positional: bool

    def arguments(self) -> dict[str, Any] | None:
        """Return the arguments of ``add_argument`` if jsonargparse's own choice does not fit."""
        default = {} if self.default is inspect.Parameter.empty else {"default": self.default}
        lists = [kind for kind in (self.hint, *get_args(self.hint)) if get_origin(kind) in (list, tuple)]  # also | None
        if lists and (get_origin(lists[0]) is list or get_args(lists[0])[-1] is Ellipsis):
            return {"nargs": "+", "type": get_args(lists[0])[0], **default}
        if self.positional:
            return {"type": self.hint, **({"nargs": "?"} if default else {}), **default}
        return {"action": "store_true"} if self.hint is bool and self.default is False else None


def _command_parser(command: Command) -> ArgumentParser:
    """Return a parser for a function: keyword-only parameters become flags, the others positional arguments.

    Parameters of a type in ``_flat_types`` become one flag per field.
    """
    doc = docstring_parser.parse(inspect.getdoc(command) or "")
    described = _described(command)
    hints = get_type_hints(command)
    parser = ArgumentParser(description=f"{doc.short_description}\n\n{doc.long_description or ''}".strip())
    parser.add_argument("--config", action="config", help="a YAML file of these options")
    by_hand: set[str | int] = set()
    for name, parameter in inspect.signature(command).parameters.items():
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        flags = [_Flag(name, hints[name], parameter.default, described.get(name), positional)]
        if hints[name] in _flat_types():
            by_hand.add(name)
            flags = list(_field_flags(hints[name]))
        for flag in flags:
            arguments = flag.arguments()
            if arguments is None and flag.name != name:
                arguments = {"type": flag.hint, "default": flag.default}
            if arguments is not None:
                prefix = "" if flag.positional else "--"
                parser.add_argument(f"{prefix}{flag.name}", help=flag.help, **arguments)
                by_hand.add(flag.name)
    parser.add_function_arguments(command, as_group=False, skip=by_hand)
    return parser


def _described(documented: Any) -> dict[str, str | None]:
    """Return the descriptions of a function's parameters or a dataclass's fields."""
    doc = docstring_parser.parse(inspect.getdoc(documented) or "")
    return {entry.arg_name: entry.description for entry in doc.params}


def _flat_types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are flags of their own: ``--flip``, not ``--options.augmentation.flip``."""
    from tokenloc.inference.options import PredictionOptions  # takes seconds to import

    return (PredictionOptions,)


def _field_flags(kind: type) -> Iterator[_Flag]:
    described = {
        entry.arg_name: entry.description for entry in docstring_parser.parse(inspect.getdoc(kind) or "").params
    }
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _field_flags(hints[field.name])
        else:
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            yield _Flag(field.name, hints[field.name], default, described.get(field.name), positional=False)


def _group_flags(command: Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a command, with the flags of dataclasses in ``_flat_types`` put together again."""
    grouped = dict(values)
    for name, hint in get_type_hints(command).items():
        if hint in _flat_types():
            grouped[name] = _take(hint, grouped)
    return grouped


def _take(kind: type, values: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    return kind(
        **{
            field.name: _take(hints[field.name], values) if is_dataclass(hints[field.name]) else values.pop(field.name)
            for field in fields(kind)
        }
    )


if __name__ == "__main__":
    sys.exit(main())
