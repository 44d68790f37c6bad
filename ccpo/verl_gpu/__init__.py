"""What the GPU path adds to verl; set by profile=gpu through actor_rollout_ref.model.external_lib. Imports nothing else of ccpo.

workers    what verl's workers import; registers the attention
attention  packed attention with the FlashAttention that PyTorch ships
head       log-probabilities of the tokens whose log-probabilities are read
host       the process of a rollout server with vLLM, which starts early; on the CPU, too
forked     the engine's processes, which vLLM would start from nothing; preload is what they are forked with
server     verl's vLLM server, without the work per token that nobody reads
"""
