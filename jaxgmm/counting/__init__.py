"""How many clusters: a posterior over partitions."""
