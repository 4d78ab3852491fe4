"""What OneFlow does for each operator of a captured graph: one function an ATen operator, whatever its overload.

The functions take OneFlow tensors, numbers and lists as ATen's signature has them, and return what ATen returns. They
are never given a graph's symbolic sizes: those are numbers by then. Results are cast to the dtype that ATen gives by
``lowering``, so that differences in type promotion end there. One file a kind; each adds its functions to OPERATORS.
"""

from . import constants, elements, products, shapes, sums
from .table import OPERATORS

__all__ = ["OPERATORS", "constants", "elements", "products", "shapes", "sums"]
