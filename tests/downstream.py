"""What a user's type checker sees of jaxgmm: `mypy --strict tests/downstream.py` is clean, and .ci/run says so."""

from typing import assert_type

import jax
import numpy as np

import jaxgmm as jg

x = jg.datasets.load_faithful().x
fit: jg.Fit = jg.fit(x, 2, key=jax.random.key(0), family="tied", prior=jg.Prior.default(x, 2, "tied"))
assert_type(fit.status, jg.Status)
assert_type(fit.restarts.replication, int)
gmm: jg.GMM = fit.gmm
labels = np.asarray(gmm.predict(x))
rows, components = gmm.sample(jax.random.key(1), 10)
assert_type(gmm.explain(x), jg.Explanation)
statistics: jg.Statistics = jg.e_step(gmm, x)
assert_type(jg.m_step(statistics, gmm), jg.GMM)
comparison: jg.Comparison = jg.compare(x, families=["full"], n_components=range(1, 3), key=jax.random.key(0))
assert_type(comparison.select("bic"), jg.Fit)
tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(2))
assert_type(jg.draws_of(tree), jg.GMM)
count: jg.ClusterCount = jg.cluster_count(jg.count_clusters(x, key=jax.random.key(3)))
assert_type(count.verdict, str)
assert_type(jg.partitions(jg.count_clusters(x, key=jax.random.key(3))).verdict, str)
bound: float = jg.fit_vb(x, 2, key=jax.random.key(4)).log_evidence
