"""Reads a command of a program from the command line, and the settings of a flow also from a YAML file."""

import argparse
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import CliSettingsSource
from pydantic_settings.exceptions import SettingsError as OptionError

from flows.cli.base_commands import Command, CommandGroup, Program, SettingsCommand
from hip_mri.config.base import FORMER_NAMES, list_settings
from hip_mri.errors import SettingsError

CONFIDENTIAL: Final = (("source",), ("sources",), ("tracking", "mlflow_uri"), ("token",))
"""Settings whose value an error does not repeat, since an address can contain a token."""

MAX_USAGE_OPTIONS: Final = 6
"""Number of options above which the usage line of a command does not list them."""

logger = logging.getLogger(__name__)


def read_command(arguments: Sequence[str], program: type[Program]) -> Command:
    """Read a command and its options; those of a flow override its settings file, which overrides the defaults.

    Prints the help and exits if `--help` is among the arguments.

    Args:
        arguments: Such as `["run", "--training.epochs", "3"]`; dashes and underscores in option names are equivalent.
        program: What was called.

    Returns:
        The command, ready to be executed.

    Raises:
        SettingsError: A command, an option or a value cannot be used. All invalid values are named.
    """
    _check_encoding(arguments)
    words = [_rename_option(_use_dashes(word)) for word in arguments]
    try:
        source = CliSettingsSource(
            program, cli_parse_args=words, cli_prog_name=program.program, formatter_class=_HelpFormatter
        )
    except OptionError as error:
        message = re.sub(r"^error parsing CLI: (argument \{.*?\}: )?", "", str(error))
        hint = _suggest(program, message, words)
        message = re.sub(r"\S*:/\S*", "...", message)  # addresses can contain passwords
        raise SettingsError(f"{message}.{hint} See {program.program} --help for all commands and options.") from None
    command, values = _select_command(program, source())
    if issubclass(command, SettingsCommand) and (file := values.get("config")):
        values = _merge(_read_yaml(Path(file)), values)
    try:
        return command.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_describe(error)) from error


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps each paragraph of a description to the width of the terminal, and keeps the usage of flows short."""

    def add_usage(self, usage: str | None, actions: Iterable[argparse.Action], *args: Any, **kwargs: Any) -> None:
        named = [action for action in actions if action.option_strings]
        if usage is None and len(named) > MAX_USAGE_OPTIONS:
            usage = "%(prog)s [OPTION VALUE] ..."
        super().add_usage(usage, actions, *args, **kwargs)

    def _expand_help(self, action: argparse.Action) -> str:
        return super()._expand_help(action).partition("\n\n")[0]  # in the list of commands

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_HelpFormatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def _check_encoding(arguments: Sequence[str]) -> None:
    """Check that all arguments are valid UTF-8, in which Prefect stores parameters; file names need not be."""
    for place, word in enumerate(arguments):
        if any("\udc80" <= letter <= "\udcff" for letter in word):
            named = next((other for other in reversed(arguments[: place + 1]) if other.startswith("--")), "an argument")
            option = named.partition("=")[0].encode(errors="replace").decode()
            or_link = "" if option == "--workspace" else ", or give a link to it, as `ln -s` makes one"
            raise SettingsError(
                f"{option}: the value has bytes that are not UTF-8, which Prefect cannot keep. Rename the file or "
                f"folder{or_link}."
            )


def _use_dashes(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _rename_option(word: str) -> str:
    """Replace the former name of a setting."""
    name, equals, value = word.partition("=")
    group, dot, setting = name.rpartition(".")
    if not group.startswith("--") or (present := FORMER_NAMES.get(setting.replace("-", "_"))) is None:
        return word
    renamed = _use_dashes(group + dot + present)
    logger.warning("The option %s was renamed to %s. The former name is deprecated.", name, renamed)
    return renamed + equals + value


def _select_command(group: type[CommandGroup], given: Mapping[str, Any]) -> tuple[type[Command], dict[str, Any]]:
    """Find the command that was given, and its values."""
    for name, kind in _list_members(group):
        if given.get(name) is not None:
            return (kind, given[name]) if issubclass(kind, Command) else _select_command(kind, given[name])
    names = ", ".join(name for name, _ in _list_members(group))
    raise SettingsError(f"No command was given. Give one of {names}. See --help.")


def _list_members(group: type[CommandGroup]) -> Iterator[tuple[str, Any]]:
    for name, field in group.model_fields.items():
        yield field.alias or name, get_args(field.annotation)[0]  # the annotation is `Kind | None`


def _suggest(program: type[Program], message: str, words: Sequence[str]) -> str:
    """Suggest the command or option that is most similar to the one that does not exist."""
    group: type[BaseModel] = program
    for word in words:  # down to the command that was given
        members = dict(_list_members(group)) if issubclass(group, CommandGroup) else {}
        if word not in members:
            break
        group = members[word]
    if issubclass(group, CommandGroup):
        known = [name for name, _ in _list_members(group)]
    else:
        known = [_use_dashes(f"--{name}") for name in list_settings(group)]
    for word in words:
        name = word.partition("=")[0]
        is_unknown = name not in known and (name in message or name.startswith("--"))
        if is_unknown and (close := get_close_matches(name, known, n=1)):
            return f" Did you mean {close[0]}?"
    return ""


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - most commands do not need it

    try:
        content = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise SettingsError(f"config: {file} cannot be read ({reason}). Give a YAML file.") from error
    except yaml.MarkedYAMLError as error:  # its text repeats the line, which can contain a password
        mark = error.problem_mark
        place = f", in line {mark.line + 1}" if mark else ""
        raise SettingsError(f"config: {file} is not YAML ({error.problem}{place}).") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML passes on Python's errors for invalid dates, for tags that do not fit and for deep nesting.
        raise SettingsError(f"config: {file} is not YAML ({error}).") from error
    if not isinstance(content, dict):
        raise SettingsError(f"config: {file} must contain names and values, as `training: {{epochs: 3}}`.")
    return content


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        known = merged.get(name)
        merged[name] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _describe(error: ValidationError) -> str:
    """Describe each invalid value in one line."""
    faults = error.errors(include_url=False)
    inner = [fault["loc"] for fault in faults]
    return "\n".join(
        f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg'].removeprefix('Value error, ')}"
        + (
            ""
            if any(fault["loc"][: len(it)] == it for it in CONFIDENTIAL)
            or ":/" in str(fault["input"])
            or not isinstance(fault["input"], str | int | float)  # a whole group of settings
            else f" (received {fault['input']!r})"
        )
        for fault in faults
        # A list counts its valid items only, so that it seems too short where one of them is invalid.
        if not (fault["type"] == "too_short" and any(it[: len(fault["loc"])] == fault["loc"] != it for it in inner))
    )
