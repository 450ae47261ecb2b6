"""Base class of all groups of settings, and the settings that were renamed."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

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


def list_groups(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """List a flow's settings and all nested groups, each with the prefix of its settings, such as `training.`."""
    yield prefix, config
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from list_groups(field.annotation, f"{prefix}{name}.")


def list_settings(config: type[BaseModel]) -> list[str]:
    """List the dotted names of all settings of a flow, such as `training.epochs`."""
    groups = list(list_groups(config))
    names = [prefix + name for prefix, group in groups for name in group.model_fields]
    return [name for name in names if name not in {prefix.removesuffix(".") for prefix, _ in groups}]


def list_former_names(config: type[BaseModel]) -> dict[str, str]:
    """List the present names of renamed settings by their former names, such as `limits.most_bytes`."""
    return {
        prefix + former: prefix + present
        for prefix, group in list_groups(config)
        for former, present in getattr(group, "former_names", {}).items()
    }
