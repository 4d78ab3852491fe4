"""Stands in for comfy-aimdo, which needs a GPU."""

from __future__ import annotations


class DynamicVram:
    """What comfy-aimdo does on a GPU, which there is none of here: a layer's place holds what was brought there once,
    under a signature that changes when others needed the room. ``takes_module``: in the form of ComfyUI 0.33."""

    def __init__(self, monkeypatch, takes_module=False):
        import comfy.model_management
        from onediff_pack.host import weights

        self.signatures, self.pinned, self.brought, self.cleaned = {}, [], [], []
        monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda device: False)
        monkeypatch.setattr(weights, "vbar_fault", self.fault)
        monkeypatch.setattr(weights, "vbar_unpin", lambda place: self.pinned.remove(place))
        monkeypatch.setattr(weights, "vbar_signature_compare", lambda a, b: a == b)
        monkeypatch.setattr(weights, "cast_modules_with_vbar", lambda layers, *args: self.brought.extend(layers))
        clean_up = self.clean_up_module if takes_module else self.clean_up
        monkeypatch.setattr(weights, "cleanup_prefetched_modules", clean_up)

    def put(self, layer, weight):
        layer._v, layer.comfy_cast_weights = str(id(layer)), True
        layer._v_signature = self.signatures[layer._v] = 1
        layer._v_weight, layer._v_bias = weight, None if layer.bias is None else layer.bias.data

    def fault(self, place):
        self.pinned.append(place)
        return self.signatures[place]

    def clean_up(self, comfy_modules):
        self.cleaned += comfy_modules

    def clean_up_module(self, module, comfy_modules):
        assert not getattr(module, "_v_block_faulted", False)
        self.clean_up(comfy_modules)
