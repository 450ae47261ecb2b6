"""Base class of all groups of settings, and the settings that were renamed."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

logger = logging.getLogger(__name__)


def _accept_former_names(schema: dict[str, Any], settings: type["Settings"]) -> None:
    """Let a Prefect server accept former names in a deployment's parameters; the form in its UI does not show them."""
    if settings.former_names:
        schema["patternProperties"] = {f"^({'|'.join(settings.former_names)})$": {}}


class Settings(BaseModel):
    """A group of settings. Unknown settings are errors; a value cannot be changed afterwards."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        json_schema_extra=_accept_former_names,
    )

    former_names: ClassVar[Mapping[str, str]] = {}
    """Present name of each setting of this group by the name that it had in version 0.1; accepted with a warning."""

    @model_validator(mode="before")
    @classmethod
    def _rename_settings(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        renamed = dict(values)
        for former in cls.former_names.keys() & values.keys():
            present = cls.former_names[former]
            if present in values:
                raise ValueError(f"{former} was renamed to {present}, and both are given; remove {former}")
            logger.warning("The setting %s was renamed to %s. The former name is deprecated.", former, present)
            renamed[present] = renamed.pop(former)
        return renamed


class Setting(NamedTuple):
    """One setting of a flow.

    Attributes:
        path: Names from the outermost group to the setting, such as `("training", "epochs")`.
        field: Type, default, range and description.
        group: The class whose field it is.
    """

    path: tuple[str, ...]
    field: FieldInfo
    group: type[BaseModel]


def list_settings(config: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """List the settings of a flow, those of nested groups included, in the order of the class."""
    for name, field in config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from list_settings(kind, (*path, name))
        else:
            yield Setting((*path, name), field, config)


def list_former_names(config: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """List the renamed settings of a flow: dotted former and present name, such as `limits.most_bytes`."""
    prefix = "".join(f"{name}." for name in path)
    for former, present in getattr(config, "former_names", {}).items():
        yield prefix + former, prefix + present
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from list_former_names(field.annotation, (*path, name))
