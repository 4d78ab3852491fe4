"""The ``oneflow`` backend: OneDiff's own where the installed OneFlow has what it needs, else this pack's lowering.

``libraries`` finds and loads OneFlow, ``lowering`` turns a captured region into ``oneflow.nn.Graph``s by the table in
``operators``, ``launching`` keeps their start from breaking OneFlow's memory, ``tensors`` shares memory between torch
and OneFlow, ``backend`` registers all this with OneDiff. Nothing here imports OneFlow before a backend was asked for.
"""
