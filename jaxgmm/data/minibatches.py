"""Minibatches of rows that come in pieces, in memory that doesn't grow with the number of rows."""

import itertools
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.data.pieces import Pieces
from jaxgmm.tools.validation import key_data

NUMBERS_A_PASS = 1 << 22  # 32 MB, as a piece of a file has


def minibatches(
    source: Pieces, key: Array, batch_size: int
) -> Iterator[tuple[Float[np.ndarray, "S B D"], Float[np.ndarray, "S B"]]]:
    """Rows and weights of S minibatches at a time, without end, each time by a pass over all rows.

    A pass draws rows of positive weight uniformly and without replacement, so files that are in some order do no harm: a
    shuffle within pieces would leave the minibatches of one as much alike as the piece's rows are.

    Args:
        source: the rows.
        key: a PRNG key.
        batch_size: B, at most the number of rows of positive weight.
    """
    with_weights = Pieces(lambda: _with_weights(source), n_rows=source.n_present)
    a_pass = max(1, NUMBERS_A_PASS // (batch_size * (source.n_features + 1)))
    n_batches = min(a_pass, source.n_present // batch_size)
    for number in itertools.count():
        own = jax.random.fold_in(key, number)
        kept, _ = with_weights.drawn(own, n_batches * batch_size)
        order = np.random.default_rng(np.asarray(key_data(own)).tolist()).permutation(len(kept))
        batches = kept[order].reshape(n_batches, batch_size, -1)
        yield batches[..., :-1], batches[..., -1]


def _with_weights(source: Pieces) -> Iterator[np.ndarray]:
    """Rows of positive weight, and as their last column the weights."""
    for rows, weight in source.parts():
        present = weight > 0
        if present.any():
            yield np.column_stack([rows, weight.astype(rows.dtype)])[present]
