"""A small model trained in one process, without verl: for comparisons over many seeds.

It is the same method: the team's program and its replays (`ccpo.team`), the dataset's rows and their judge, `compute_advantages`, and the requests
of the CPU profile, which have the same seeds and are sampled by the same code. So a run here and one of the verl trainer with the same
configuration ask the same questions in the same order, and the first step's rows are the same. What is different is the machinery: no
checkpoints, no servers, one process; a run that is ended leaves nothing and is started again.

settings   what is read of the composed configuration, and what is refused
policy     one set of weights: its sampler and its optimizer
rollout    sessions of a team, played together
update     the policy gradient, prompts encoded once for all their responses
signal     how much of a step's gradient is signal, role by role
budget     what a step decodes, and a run that ends when so much is spent
train      the loop
"""

from ccpo.compact.budget import UNITS, Budget
from ccpo.compact.settings import Settings
from ccpo.compact.train import train

__all__ = ["UNITS", "Budget", "Settings", "train"]
