"""Models that do not fit on one device, sharded over all of them by torch's FSDP."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine import _strategy
from mmengine.device import get_device
from mmengine.dist import is_main_process
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from fpn_neck.mm.registry import STRATEGIES
from fpn_neck.utils.files import write_whole


@STRATEGIES.register_module()
class FSDPStrategy(_strategy.FSDPStrategy):
    """``mmengine.FSDPStrategy`` on CPUs too, with checkpoints for any number of processes.

    mmengine clips each shard's gradient by the norm of that shard, resumes with arguments in an
    order that torch changed, writes checkpoints under their final names, and needs a GPU.

    Args:
        model_wrapper: arguments of ``MMFullyShardedDataParallel``; ``use_orig_params=True`` if
            parts of the model are frozen or have their own learning rate.
        **kwargs: of ``mmengine.FSDPStrategy``.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs: Any) -> None:
        wrapper = {"type": "MMFullyShardedDataParallel"} | (model_wrapper or {})
        on_cpu = get_device() == "cpu"
        if on_cpu:
            wrapper["device_id"] = torch.device("cpu")
        # The first process collects the whole model in its memory, and writes one file. On CPUs
        # the model is in memory already, and must not be moved there: older torch frees it.
        whole = {"rank0_only": True, "offload_to_cpu": not on_cpu}
        state_dict_cfg = {
            "state_dict_type": "FULL_STATE_DICT",
            "state_dict_config": {"type": "FullStateDictConfig", **whole},
            "optim_state_dict_config": {"type": "FullOptimStateDictConfig", **whole},
        }
        super().__init__(model_wrapper=wrapper, state_dict_cfg=state_dict_cfg, **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        whole = sum(p.numel() for p in model.parameters())
        state_dict = _names_and_buffers(model)
        model = super()._wrap_model(model)
        # A checkpoint is compared with it before it is loaded. FSDP takes any name and shape.
        vars(model)["whole_state_dict"] = state_dict
        shard = sum(p.numel() for p in model.parameters())
        self.logger.info(f"FSDP: {shard} of {whole} parameters in each process")
        return model

    def build_optim_wrapper(self, optim_wrapper: Any, model: nn.Module | None = None) -> Any:
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        clips_by_norm = getattr(wrapper, "clip_func", None) is torch.nn.utils.clip_grad_norm_
        if clips_by_norm and isinstance(model, FullyShardedDataParallel):
            # The wrapper belongs to this strategy, which also gave it a sharded optimizer.
            wrapper.clip_func = partial(_clip_by_whole_norm, model)
        return wrapper

    def load_optim_state_dict(self, state_dict: dict) -> None:
        self.optim_wrapper.load_state_dict(
            FullyShardedDataParallel.optim_state_dict_to_load(
                model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
            )
        )

    def save_checkpoint(self, filename: str, **kwargs: Any) -> None:
        save = super().save_checkpoint
        if is_main_process():
            write_whole(Path(filename), lambda path: save(str(path), **kwargs), sync=True)
        else:
            save(filename, **kwargs)  # sends its shards to the first process, writes nothing


def _names_and_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a model without its parameters' values."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: torch.empty_like(value, device="meta") if name in parameters else value.clone()
        for name, value in model.state_dict().items()
    }


def _clip_by_whole_norm(model: FullyShardedDataParallel, parameters: Any, **kwargs: Any) -> Any:
    return model.clip_grad_norm_(**kwargs)
