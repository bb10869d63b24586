"""The command line. Flags, YAML keys and help texts come from the signatures and docstrings of the commands."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from tokenloc._names import unknown_name
from tokenloc._plain import check_text
from tokenloc.commands.console import IncompleteError, print_message
from tokenloc.commands.recipes import SHORT, folder_recipe, read_part, read_recipe

Command = Callable[..., Any]

COMMANDS = {  # function and summary; importing all functions for their docstrings would take seconds
    "demo": ("demo.demo", "Compare the methods on generated scenes, without any download."),
    "train": ("train.train", "Train a method on images and their class labels, then calibrate and evaluate it."),
    "distill": ("distill.distill", "Train a student that gives the maps of many passes of a model in one."),
    "evaluate": ("evaluate.evaluate", "Evaluate a checkpoint, or maps of any code, on a dataset."),
    "calibrate": ("evaluate.calibrate", "Choose the map threshold on a held-out split with boxes."),
    "compare": ("compare.compare_runs", "Compare runs, with the mean and spread of repeats."),
    "report": ("report.report", "Write one HTML file about a run, or several side by side."),
    "autolabel": ("autolabel.autolabel", "Learn from photographs sorted by class, and draw boxes on these."),
    "localize": ("localize.localize", "Draw boxes on images: files, or folders with everything below them."),
    "localize-ray": ("localize_ray.localize_ray", "Draw boxes on images with Ray, on one machine or a cluster."),
    "boxes": ("boxes.boxes", "Write annotation files from heatmaps of any code."),
    "export-dataset": ("export_dataset.export_dataset", "Write boxes and images for the training of a detector."),
    "table": ("table.table", "Reproduce a table of a paper, with its printed numbers beside ours."),
    "inspect": ("inspection.inspect", "Draw what is inside a model for images: maps, attention, features."),
    "export": ("export.export", "Export a model to ONNX, with its classes, preprocessing and threshold."),
    "serve": ("serve.serve", "Serve a web page and a REST API."),
    "list": ("catalogue.list_names", "List methods, backbones, datasets, protocols, recipes or tables."),
    "info": ("catalogue.info", "Describe a checkpoint, or check a dataset for broken files."),
}

TRAINS = {"train", "autolabel"}  # commands whose options have short names

LONGEST = 4000  # characters of an error message, which may quote a value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 if some of the work could not be done, 2 for invalid input."""
    label = "tokenloc"
    try:
        name, command, values = _parse(sys.argv[1:] if arguments is None else arguments)
        label = f"tokenloc {name}"
        command(**values)
    except IncompleteError as error:
        return _exit(str(error), status=1)
    except (ValueError, OSError, ImportError, OverflowError, MemoryError) as error:
        return _exit(f"{label}: {error}", status=2)
    except RecursionError:
        return _exit(f"{label}: a value is nested too deeply", status=2)
    except (KeyboardInterrupt, SystemError) as error:
        if not _is_interruption(error):
            raise
        message = str(error) if isinstance(error, KeyboardInterrupt) else ""
        return _exit(f"{label}: {message or 'interrupted'}", status=130)
    return 0


def _is_interruption(error: BaseException | None) -> bool:
    """Return whether Ctrl-C is the cause of an error: Numba raises SystemError if its loading is interrupted."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _parse(arguments: Sequence[str]) -> tuple[str, Command, dict[str, Any]]:
    """Return the name and the function of a command, and its arguments. Values are data: none imports or calls code."""
    words = [_with_underscores(word) for word in arguments]
    for word in words:
        check_text(word.partition("=")[2] if word.startswith("--") else word)
    wanted = [word for word in words if word in COMMANDS][:1]
    parser, commands = _make_parser(wanted)
    groups = {group for command in commands.values() for group in _groups(command)}
    words = _with_recipes([_full_name(word) for word in words] if {*wanted} & TRAINS else words, groups)
    settings = _read_options(parser, words)
    name, command = settings.subcommand, commands[settings.subcommand]
    if settings[name].get("photos") and not any(word.partition("=")[0] == "--config" for word in words):
        words.insert(words.index(name) + 1, f"--config={yaml.safe_dump(folder_recipe())}")
        settings = _read_options(parser, words)
    values = {key: value for key, value in vars(settings[name]).items() if key not in ("config", "__default_config__")}
    options = {key: _take(hint, values) for key, hint in get_type_hints(command).items() if _is_options(hint)}
    return name, command, values | options


def _exit(message: str, status: int) -> int:
    print_message(message)
    return status


def _with_underscores(word: str) -> str:
    """Return ``--save_maps=my-maps`` for ``--save-maps=my-maps``: both spellings of a flag are accepted."""
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if word.startswith("--") else word


def _full_name(word: str) -> str:
    """Return ``--model.method=sat`` for ``--method=sat``."""
    flag, equals, value = word.partition("=")
    short = flag.startswith("--") and flag[2:] in SHORT
    return f"--{SHORT[flag[2:]]}{equals}{value}" if short else word


def _read_options(parser: _Parser, words: list[str]) -> Namespace:
    try:
        parsed = parser.parse_args(words)
        for name, value in parsed[parsed.subcommand].items():
            if value is None and name in parser.never_null:
                raise ValueError(f"--{name} must have a value; got null")
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise ValueError(f"--{name} must be a finite number; got {number}")
        settings: Namespace = parser.instantiate(parsed)
    except ValueError:
        raise
    except Exception as error:  # jsonargparse raises any type for values that it does not expect
        raise ValueError(f"invalid options ({type(error).__name__}: {error})") from error
    return settings


def _groups(command: Command) -> list[str]:
    """Return the parameters of a command that are groups of options, such as ``data``."""
    return [
        name
        for name, hint in get_type_hints(command).items()
        if any(is_dataclass(kind) for kind in (hint, *get_args(hint))) and not _is_options(hint)
    ]


def _with_recipes(words: Sequence[str], groups: Collection[str]) -> list[str]:
    """Replace the file after ``--config``, or after the flag of a group of options, by the options in it, as YAML.

    jsonargparse would read such files itself: also devices and pipes, and a name such as ``data.yaml`` as a module.
    """
    replaced, flag = [], ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else (flag, "", word)
        if name == "--config" and value:
            value = yaml.safe_dump(read_recipe(value, groups), allow_unicode=True)
        elif name.startswith("--") and name[2:] in groups and Path(value).suffix in (".yaml", ".yml"):
            value = yaml.safe_dump(read_part(Path(value)), allow_unicode=True)
        flag = name if word.startswith("--") and not equals else ""
        replaced.append(name + equals + value if word.startswith("--") else value)
    return replaced


class _Parser(ArgumentParser):
    """Reports errors in a line or two, with the nearest name for an unknown one."""

    command = ""
    options: Collection[str] = ()
    positional: Collection[str] = ()
    never_null: Collection[str] = ()  # jsonargparse accepts null in YAML for any type

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        del ex
        prefix = f"tokenloc {self.command}".rstrip()
        sys.exit(_exit(f"{prefix}: {self._explained(' '.join(message.split()))}\nsee `{prefix} --help`", status=2))

    def _explained(self, message: str) -> str:
        if denied := re.search(r"Importing ('.+?') is not allowed", message):
            return f"{denied[1]} names code; options are data, and none is imported or called"
        message = message if len(message) < LONGEST else message[:LONGEST] + "…"
        if 'expected "subcommand"' in message:
            return f"give a command: {', '.join(COMMANDS)}"
        if unknown := re.search(r"invalid choice: '(.*?)' \(choose from", message):
            return str(unknown_name("command", unknown[1], COMMANDS))
        if unknown := re.search(r"does not accept option '([^']+)'|nrecognized arguments: .*?--([\w.]+)", message):
            return str(unknown_name("option", unknown[1] or unknown[2], self.options))
        if missing := re.search(r"arguments are required: (.+)", message):
            names = [name.removeprefix(f"{self.command}.") for name in missing[1].split(", ")]
            return f"missing {', '.join(name.upper() if name in self.positional else f'--{name}' for name in names)}"
        message = re.sub(r"Expected an? <class '(\w+?)'>\. Got value:", r"expected \1, got", message)
        if wrong := re.search(r'key "([\w.]+)".*?Literal\[(.+?)\].* (?:Given|Got) value: (.+)', message):
            return str(unknown_name(f"{wrong[1]}:", wrong[3], re.findall(r"'(.+?)'", wrong[2])))
        return re.sub(r'Parser key "([\w.]+)":', r"--\1:", message)


def _make_parser(wanted: Collection[str]) -> tuple[_Parser, dict[str, Command]]:
    """Return a parser that knows the names of all commands, and the flags of the ``wanted`` ones, which it imports."""
    # By default jsonargparse imports and calls what a value names: {class_path: os.system, init_args: …}.
    allowed = [f"tokenloc.training.config.{name}" for name in ("DataConfig", "ModelChoice")]  # `info`: optional groups
    set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=allowed, instantiate_subclass_spec_in_any=False
    )
    description = "Learn to draw boxes from image labels alone."
    parser = _Parser(prog="tokenloc", description=description, version=version("tokenloc"), allow_abbrev=False)
    subcommands = parser.add_subcommands()
    commands: dict[str, Command] = {}
    for name, (path, summary) in COMMANDS.items():
        subparser = _Parser(allow_abbrev=False)
        if name in wanted:
            module, function = path.split(".")
            commands[name] = getattr(import_module(f"tokenloc.commands.{module}"), function)
            subparser = _command_parser(commands[name])
            short = SHORT if name in TRAINS else {}
            for each in (parser, subparser):
                each.command, each.options = name, [*subparser.get_defaults().keys(), *short]
                each.positional = inspect.getfullargspec(commands[name]).args
            parser.never_null = {flag for flag, hint in _hints(commands[name]) if not _is_optional(hint)}
        subcommands.add_subcommand(name, subparser, help=summary)
    return parser, commands


def _command_parser(command: Command) -> _Parser:
    """Return a parser: keyword-only parameters and each field of ``PredictionOptions`` become flags."""
    doc = docstring_parser.parse(inspect.getdoc(command) or "")
    described, hints = _described(command), get_type_hints(command)
    parser = _Parser(allow_abbrev=False, description=f"{doc.short_description}\n\n{doc.long_description or ''}".strip())
    parser.add_argument("--config", action="config", help="a YAML file of these options")
    by_hand: set[str | int] = set()
    for name, parameter in inspect.signature(command).parameters.items():
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        if _is_options(hints[name]):
            by_hand.add(name)
            for flag, field_arguments in _field_flags(hints[name]):
                parser.add_argument(flag, **field_arguments)
        elif (arguments := _arguments(hints[name], parameter.default, positional)) is not None:
            by_hand.add(name)
            parser.add_argument(name if positional else f"--{name}", help=described.get(name), **arguments)
    parser.add_function_arguments(command, as_group=False, skip=by_hand)
    return parser


def _described(documented: Any) -> dict[str, str | None]:
    """Return the descriptions of a function's parameters or a dataclass's fields."""
    doc = docstring_parser.parse(inspect.getdoc(documented) or "")
    return {entry.arg_name: entry.description for entry in doc.params}


def _arguments(hint: Any, default: Any, positional: bool = False) -> dict[str, Any] | None:
    """Return the arguments of ``add_argument`` for a parameter; None if jsonargparse's own choice fits."""
    optional = {} if default is inspect.Parameter.empty else {"default": default}
    lists = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) in (list, tuple)]  # also | None
    if lists and (get_origin(lists[0]) is list or get_args(lists[0])[-1] is Ellipsis):
        return {"nargs": "+", "type": get_args(lists[0])[0], **optional}
    if positional:
        return {"type": hint, **({"nargs": "?"} if optional else {}), **optional}
    return {"action": "store_true"} if hint is bool and default is False else None


def _hints(documented: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the types of a function's parameters or a dataclass's fields, by the names of their flags."""
    for name, hint in get_type_hints(documented).items():
        groups = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
        for group in groups:
            yield from _hints(group, prefix if _is_options(group) else f"{prefix}{name}.")
        if not groups:
            yield prefix + name, hint


def _is_optional(hint: Any) -> bool:
    return hint is Any or type(None) in (hint, *get_args(hint))


def _is_options(hint: Any) -> bool:
    from tokenloc.inference.options import PredictionOptions  # takes seconds to import

    return hint is PredictionOptions


def _field_flags(kind: type) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the flag of each field of a dataclass, and of each field of dataclasses in it."""
    described, hints = _described(kind), get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _field_flags(hint)
        else:
            arguments = _arguments(hint, field.default) or {"type": hint, "default": field.default}
            yield f"--{field.name}", {"help": described.get(field.name), **arguments}


def _take(kind: type, values: dict[str, Any]) -> Any:
    """Create a dataclass from the ``values`` of its flags, which are removed."""
    hints, names = get_type_hints(kind), [field.name for field in fields(kind)]
    return kind(*(_take(hints[name], values) if is_dataclass(hints[name]) else values.pop(name) for name in names))


if __name__ == "__main__":
    sys.exit(main())
