"""timm's parts of the ViT, and AdamW, without torch.compile's machinery: half of the seconds before the first step.

Nothing here compiles, yet `torch._dynamo` (slower to import than torch itself) would come along for trifles:
torchvision asks it whether a device can compile, timm, every optimizer's first call and arithmetic on the meta device
mark functions as not to be compiled, and `step` puts a graph break before itself. Meanwhile a stand-in answers;
afterwards `torch.compile` imports the real one as usual. timm also imports wandb (3 s) wherever it is installed.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

NAME = "torch._dynamo"


@contextmanager
def without_compiler() -> Iterator[None]:
    """`torch._dynamo` with two functions instead of a thousand modules; what is loaded already stays."""
    package, utils = ModuleType(NAME), ModuleType(f"{NAME}.utils")

    def disable(fn: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        return fn if fn is not None else lambda inner: inner

    def is_compile_supported(device: Any) -> Any:
        return importlib.import_module(f"{NAME}.utils").is_compile_supported(device)

    vars(package).update(__path__=[], disable=disable, utils=utils)
    vars(utils).update(is_compile_supported=is_compile_supported)
    stand_ins: dict[str, Any] = {NAME: package, f"{NAME}.utils": utils, "wandb": None}  # None: "not installed"
    stand_ins = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules |= stand_ins
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


class AdamW(torch.optim.AdamW):
    """torch's AdamW."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return inspect.unwrap(torch.optim.Adam.step)(self, closure)


with without_compiler():
    from timm.layers import Attention, resample_abs_pos_embed
    from timm.models.vision_transformer import Block, VisionTransformer

    optimizer = AdamW([torch.zeros(())])  # each of its methods asks for its mark when it is first called
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    del optimizer

__all__ = ["AdamW", "Attention", "Block", "VisionTransformer", "resample_abs_pos_embed"]
