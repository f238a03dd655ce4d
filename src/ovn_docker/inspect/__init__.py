"""State of the cluster for the operator: one reader, and pure functions over what it read."""
