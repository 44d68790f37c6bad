"""Everything verl's processes need on the GPU; set actor_rollout_ref.model.external_lib to this module.

Importing it registers the attention; the rollout server is registered as a name and imported where one starts.
"""

from verl.workers.rollout.replica import RolloutReplicaRegistry

from ccpo.verl_gpu import attention


def _load_server():
    from ccpo.verl_gpu.server import Replica

    return Replica


attention.register()
RolloutReplicaRegistry.register("vllm", _load_server)
