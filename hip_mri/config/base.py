"""Base class of all groups of settings, and the settings that were renamed."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMER_NAMES: Final = {
    "most_entries": "max_entries",
    "most_bytes": "max_bytes",
    "most_ratio": "max_compression_ratio",
    "subgroup_minimum_size": "min_subgroup_size",
    "least_effect": "min_effect_size",
    "least_auc": "min_auc",
    "minimum_sensitivity": "min_sensitivity",
    "minimum_subgroup_sensitivity": "min_subgroup_sensitivity",
    "most_shown": "max_shown",
    "most_explained": "max_explained",
}
"""Present name of a setting by its name in version 0.1, which is accepted with a warning."""

CollectionName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w .,()/-]+$")]
"""Name of a collection of images."""

logger = logging.getLogger(__name__)


def _adapt_schema(schema: dict[str, Any], settings: type["Settings"]) -> None:
    """Adapt the JSON schema of a group, by which a Prefect server checks parameters and its UI draws a form.

    Former names are accepted, and the form does not show them.
    """
    for name, field in schema["properties"].items():
        _flatten_optional(field)
        for place in (field, field.get("items", {})):
            if refused := place.pop("not", None):
                condition = refused if place is field else {"contains": refused}
                _refuse_silently(schema, name, condition, refused["$comment"])
    if names := [former for former, present in FORMER_NAMES.items() if present in settings.model_fields]:
        schema["patternProperties"] = {f"^({'|'.join(names)})$": {}}


def _flatten_optional(field: dict[str, Any]) -> None:
    """Make an optional setting one field that is empty by default, instead of a choice between two types.

    A Prefect server accepts null for a setting without a default.
    """
    kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del field["anyOf"]
        if field["default"] is None:
            del field["default"]
        field.update(kinds[0])


def _refuse_silently(schema: dict[str, Any], name: str, refused: dict[str, Any], advice: str) -> None:
    """Refuse a value, which can contain a password, with a message that contains only the advice.

    Messages of JSON schema contain the value, except those of `dependentRequired`.
    """
    condition = {"if": {"properties": {name: refused}}, "then": {"dependentRequired": {name: [advice]}}}
    schema.setdefault("dependentSchemas", {})[name] = condition


class Settings(BaseModel):
    """A group of settings. Unknown settings are errors; a value cannot be changed afterwards."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        json_schema_extra=_adapt_schema,
    )

    @model_validator(mode="before")
    @classmethod
    def _rename_settings(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        renamed = dict(values)
        for former, present in FORMER_NAMES.items():
            if former in values and present in cls.model_fields:
                if present in values:
                    raise ValueError(f"{former} was renamed to {present}, and both are given; remove {former}")
                logger.warning("The setting %s was renamed to %s. The former name is deprecated.", former, present)
                renamed[present] = renamed.pop(former)
        return renamed


def list_settings(config: type[BaseModel], prefix: str = "") -> list[str]:
    """List the dotted names of all settings of a flow, such as `training.epochs`."""
    names = []
    for name, field in config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += list_settings(kind, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names
