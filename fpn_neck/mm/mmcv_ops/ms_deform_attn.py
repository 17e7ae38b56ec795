"""Multi-scale deformable attention as ``mmcv._ext`` names and calls it (Zhu et al., ICLR 2021).

mmcv calls these operators on GPUs and its own plain torch function on CPUs; here that function
serves both.

Shapes: value (N, keys, heads, C); value_spatial_shapes (levels, 2); sampling_loc (N, queries,
heads, levels, points, 2); attn_weight (N, queries, heads, levels, points); output
(N, queries, heads * C).
"""

from torch import Tensor

from fpn_neck.mm.mmcv_ops.autograd import gradients


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    im2col_step: int,
) -> Tensor:
    """The output; how many images go together, `im2col_step`, is mmcv's own affair."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(
        value, value_spatial_shapes, sampling_loc, attn_weight
    )


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Overwrite the three gradients."""

    def attend(value: Tensor, sampling_loc: Tensor, attn_weight: Tensor) -> Tensor:
        rest = value_level_start_index, sampling_loc, attn_weight, im2col_step
        return ms_deform_attn_forward(value, value_spatial_shapes, *rest)

    grads = gradients(attend, [value, sampling_loc, attn_weight], grad_output)
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)
