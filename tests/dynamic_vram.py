"""Stands in for comfy-aimdo, which needs a GPU."""

from __future__ import annotations


class DynamicVram:
    """What comfy-aimdo does on a GPU, which there is none of here: a layer's place holds what was brought there once,
    under a signature that changes when others needed the room."""

    def __init__(self, monkeypatch):
        import comfy.model_management
        from onediff_pack.nodes import weights

        self.signatures, self.pinned, self.brought = {}, [], []
        monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda device: False)
        monkeypatch.setattr(weights, "vbar_fault", self.fault)
        monkeypatch.setattr(weights, "vbar_unpin", lambda place: self.pinned.remove(place))
        monkeypatch.setattr(weights, "vbar_signature_compare", lambda a, b: a == b)
        monkeypatch.setattr(weights, "cast_modules_with_vbar", lambda layers, *args: self.brought.extend(layers))
        monkeypatch.setattr(weights, "cleanup_prefetched_modules", lambda layers: None)

    def put(self, layer, weight):
        layer._v, layer.comfy_cast_weights = str(id(layer)), True
        layer._v_signature = self.signatures[layer._v] = 1
        layer._v_weight, layer._v_bias = weight, None if layer.bias is None else layer.bias.data

    def fault(self, place):
        self.pinned.append(place)
        return self.signatures[place]
