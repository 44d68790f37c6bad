"""What verl's workers need on the GPU; set actor_rollout_ref.model.external_lib to this module. Importing it registers the attention."""

from ccpo.verl_gpu import attention

attention.register()
