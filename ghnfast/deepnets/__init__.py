"""The networks of DeepNets-1M: genotypes of cells, and the modules that they describe.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, Section 3 and Appendix A.
The cells are those of DARTS (Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019) with more operations.
"""

from ghnfast.deepnets.genotype import OPERATIONS, Genotype
from ghnfast.deepnets.network import Network

__all__ = ["OPERATIONS", "Genotype", "Network"]
