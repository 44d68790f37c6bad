"""Optional CPU backend for verl: lets the unchanged verl trainer run on a machine without an accelerator. Imports
nothing else of ccpo.

platform    what verl asks of a device; imported by every verl process through VERL_USE_EXTERNAL_MODULES
workers     what verl's workers need; imported later, through actor_rollout_ref.model.external_lib
engine      FSDP2 training engine
generation  reproducible continuous batching with transformers; knows neither verl nor Ray
decoding    the same on an event loop; who serves it awaits a request
serve       an OpenAI-compatible HTTP server around it; knows neither verl nor Ray
rollout     rollout server `hf_cpu` around it
vllm        what the real vLLM needs on CPU (rollout.name=vllm, optional)
"""

# Environment of every process of a CPU job; to be set before verl is imported for the first time.
ENVIRONMENT = {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "ccpo.verl_cpu.platform"}
