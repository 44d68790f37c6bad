"""What the GPU path adds to verl; set by profile=gpu through actor_rollout_ref.model.external_lib. Imports nothing else of ccpo.

workers    what verl's workers and servers import; registers the rest
attention  packed attention with the FlashAttention that PyTorch ships
server     verl's vLLM server, without the work per token that nobody reads
"""
