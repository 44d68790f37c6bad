"""What every process of a job does first: verl imports this module before anything else of ours (VERL_USE_EXTERNAL_MODULES)."""

from __future__ import annotations

import os

from ccpo.verl_plugin import lean, loading, network

lean.skip_vllm()
loading.plain_data_only()
network.bind_stores()
network.tell_jobs_apart()
if network.NETWORK in os.environ:
    network.enter(os.environ[network.NETWORK])
# A relative path means the same file in every process. Those of a Ray that runs begin where that was started.
if network.FOLDER in os.environ:
    os.chdir(os.environ[network.FOLDER])
