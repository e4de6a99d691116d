"""Registration of dataclasses that check what people write but not what JAX rebuilds."""

from collections.abc import Callable, Iterable
from dataclasses import fields

import jax
from jaxtyping import PyTree


def pytree[Class: type](*, static: tuple[str, ...] = ()) -> Callable[[Class], Class]:
    """Class decorator: a frozen dataclass as a pytree whose unflattening skips `__init__` and its checks.

    `jax.tree_util.register_dataclass` calls the constructor with placeholders, tracers, shapes and booleans in place of
    arrays (`jax.tree.map(jnp.shape, gmm)` is legal), so a constructor registered that way can't refuse anything.

    Args:
        static: names of the fields that are metadata.
    """

    def register(cls: Class) -> Class:
        names = [field.name for field in fields(cls) if field.name not in static]

        def flatten(value: object) -> tuple[list[PyTree], tuple[object, ...]]:
            return [getattr(value, name) for name in names], tuple(getattr(value, name) for name in static)

        def flatten_with_keys(value: object) -> tuple[list[tuple[jax.tree_util.GetAttrKey, PyTree]], tuple[object, ...]]:
            leaves, metadata = flatten(value)
            return [(jax.tree_util.GetAttrKey(name), leaf) for name, leaf in zip(names, leaves, strict=True)], metadata

        def unflatten(metadata: tuple[object, ...], leaves: Iterable[PyTree]) -> object:
            return unchecked(cls, **dict(zip(names, leaves, strict=True)), **dict(zip(static, metadata, strict=True)))

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
        return cls

    return register


def unchecked[Instance](cls: type[Instance], **values: object) -> Instance:
    """An instance with these fields, made without `__init__`."""
    value = object.__new__(cls)
    for name, field in values.items():
        object.__setattr__(value, name, field)
    return value
