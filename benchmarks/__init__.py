"""From configurations to claims: collect, train, evaluate, compare."""
