# The model's weights, gradients and optimizer state are shared out to all processes (FSDP).
runner_type = 'FlexibleRunner'
strategy = dict(
    type='fpn_neck.FSDPStrategy',
    model_wrapper=dict(
        use_orig_params=True,  # frozen parts and learning rates of their own
        auto_wrap_policy=dict(
            type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy',
            min_num_params=10_000_000)))
