"""Everything verl's workers need on the CPU; set actor_rollout_ref.model.external_lib to this module.

Importing it registers the training engine and the rollout `hf_cpu`.
"""

from . import engine, rollout

__all__ = ["engine", "rollout"]
