"""DeepNets-1M: genotypes of cells, the networks and graphs that they describe, and the data set.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, Section 3 and Appendix A.
The cells are those of DARTS (Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019) with more operations.
"""

from .dataset import DeepNet, DeepNets1M, NodeBatchSampler
from .genotype import GENOTYPES, OPERATIONS, Genotype
from .network import Network
from .space import graph_of

__all__ = [
    "GENOTYPES",
    "OPERATIONS",
    "DeepNet",
    "DeepNets1M",
    "Genotype",
    "Network",
    "NodeBatchSampler",
    "graph_of",
]
