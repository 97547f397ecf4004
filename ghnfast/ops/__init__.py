"""The operations of a GHN, one file each. The plain PyTorch version in each file defines what the operation is."""
