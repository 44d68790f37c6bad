"""As ccpo.verl_plugin.faults, and what the trainer gives to `ccpo.step` and gets from it is kept, step by step, as JSON lines."""

import json
import os
from dataclasses import asdict

from ccpo.verl_plugin import trainer
from ccpo.verl_plugin.faults import WatchedBuffer  # noqa: F401

compute_advantages = trainer.compute_advantages


def kept(sessions, settings, state):
    result = compute_advantages(sessions, settings, state)
    line = {
        "roles": sessions.roles,
        "sessions": [asdict(sessions[s]) for s in range(len(sessions))],
        "spoke": sessions.spoke_SV.tolist(),
        "credit": result.credit_SV.tolist(),
        "advantage": result.advantage_SV.tolist(),
    }
    with open(os.environ["CCPO_TEST_OUT"] + ".sessions", "a") as stream:
        stream.write(json.dumps(line) + "\n")
    return result


trainer.compute_advantages = kept
