"""The operations of a GHN, one folder each: dispatch, the definition in plain PyTorch, and the operators of torch."""
