"""What the tables of a config are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Names = Annotated[tuple[str, ...], Field(strict=False)]  # TOML gives a list where a tuple is meant
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class StrictTable(BaseModel):
    """A table of a config, as a value: "3" is not 3, 1 is not true, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
