"""mmengine registries of the scope ``fpn_neck``.

mmengine imports ``<scope>.registry`` the first time it meets a ``type='<scope>.<name>'``, which is
why ``type='fpn_neck.FPN'`` works in every framework's config without ``custom_imports``.
"""

from importlib.util import find_spec

from mmengine import registry as root

from fpn_neck.integrations.mmengine_checkpoints import allow_mmengine_checkpoints

# torch 2.6 made weights_only the default, under which mmengine can't read its own checkpoints.
allow_mmengine_checkpoints()

_SCOPE = "fpn_neck"
_LOCATIONS = ["fpn_neck.integrations.mmengine"]
if find_spec("mmseg"):
    _LOCATIONS.append("fpn_neck.integrations.mmseg")


def _child(parent: root.Registry) -> root.Registry:
    return root.Registry(parent.name, parent=parent, scope=_SCOPE, locations=_LOCATIONS)


MODELS = _child(root.MODELS)
DATASETS = _child(root.DATASETS)
METRICS = _child(root.METRICS)
HOOKS = _child(root.HOOKS)
