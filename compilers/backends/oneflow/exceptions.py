"""Why OneFlow cannot compile a block."""

from __future__ import annotations


class MissingOperator(RuntimeError):
    """A backend cannot do an operator of a region. ``operator`` is ATen's name of it, ``where`` the model's line."""

    def __init__(self, operator: str, where: str, why: str):
        super().__init__(f"it uses {operator} ({where}), which OneFlow cannot do here: {why}.")
        self.operator = operator
        self.where = where
