"""Triton kernels. Importing this package does not import Triton; the modules in it do."""
