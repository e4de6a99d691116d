"""Registration of dataclasses that check what people write but not what JAX rebuilds."""

from collections.abc import Callable, Iterable
from dataclasses import fields

import jax
from jaxtyping import PyTree


class _Labels:
    """Metadata that JAX doesn't look at: all are equal, so that pytrees with other labels are of one structure."""

    def __init__(self, values: tuple[object, ...]) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Labels)

    def __hash__(self) -> int:
        return 0


def pytree[Class: type](*, static: tuple[str, ...] = (), labels: tuple[str, ...] = ()) -> Callable[[Class], Class]:
    """Class decorator: a frozen dataclass as a pytree whose unflattening skips `__init__` and its checks.

    `jax.tree_util.register_dataclass` calls the constructor with placeholders, tracers, shapes and booleans in place of
    arrays (`jax.tree.map(jnp.shape, gmm)` is legal), so a constructor registered that way can't refuse anything.

    Args:
        static: names of the fields that are metadata.
        labels: names of the fields, None by default, that are metadata for people: `jit` compiles nothing for other ones, and
            structures that differ in them are equal. With traced leaves they are None, and so in what compiled functions
            return: those of their first call would be wrong in the next.
    """

    def register(cls: Class) -> Class:
        names = [field.name for field in fields(cls) if field.name not in (*static, *labels)]

        def flatten(value: object) -> tuple[list[PyTree], tuple[object, ...]]:
            metadata = [getattr(value, name) for name in static]
            return [getattr(value, name) for name in names], (*metadata, _Labels(tuple(getattr(value, n) for n in labels)))

        def flatten_with_keys(value: object) -> tuple[list[tuple[jax.tree_util.GetAttrKey, PyTree]], tuple[object, ...]]:
            leaves, metadata = flatten(value)
            return [(jax.tree_util.GetAttrKey(name), leaf) for name, leaf in zip(names, leaves, strict=True)], metadata

        def unflatten(metadata: tuple[object, ...], leaves: Iterable[PyTree]) -> object:
            leaves, (*values, own) = list(leaves), metadata
            assert isinstance(own, _Labels)
            known = {} if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) else zip(labels, own.values, strict=True)
            return unchecked(
                cls, **dict(zip(names, leaves, strict=True)), **dict(zip(static, values, strict=True)), **dict(known)
            )

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
        return cls

    return register


def unchecked[Instance](cls: type[Instance], **values: object) -> Instance:
    """An instance with these fields, made without `__init__`."""
    value = object.__new__(cls)
    for name, field in values.items():
        object.__setattr__(value, name, field)
    return value
