"""The shapes of scatter: how covariances of each shape whiten rows, and which sums over rows they need.

A family (full, tied, VEV, ...) is a parametrisation; its *structure* is the algebra under it. Everything here is for
one mixture, K components, and a block of B rows `z` that has been shifted to a common centre, as have the `means`:

* *whitened*: y_nk = W_k' (z_n - m_k), with Sigma_k^-1 = W_k W_k'. Rounding grows as eps * spread / sigma.
* *moments*: log N(z | m, Sigma) is linear in T(z) = [z, columns(z), 1]. Two plain matrix products an iteration, but rounding
  grows as eps * (spread / sigma)^2.
"""

from jaxgmm.covariance.matrices import Dense
from jaxgmm.covariance.variances import Diagonal

Structure = Dense | Diagonal
