"""What every section of the configuration is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0.0, le=1e30, allow_inf_nan=False)]
"""Far above anything that makes sense, and far below what float32 cannot hold."""
Share = Annotated[float, Field(gt=0.0, le=1.0)]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "text must not be empty")
    return text


Prompt = Annotated[str, AfterValidator(_not_blank)]


class Section(BaseModel):
    """A frozen, strict section that knows its keys and no others."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _writable(cls, value: object) -> object:
        """Refuse text that no file can hold: it would stop a run at the first thing it writes."""
        if _half_characters(value):
            raise PydanticCustomError(
                "surrogate", "text must be whole characters, without lone surrogates"
            )
        return value


def _half_characters(value: object) -> bool:
    if isinstance(value, str):
        return any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, tuple) and any(map(_half_characters, value))


def subsection(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the section a field holds, or None for a plain key."""
    annotation: object = field.annotation if field else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
