"""The bridge to verl; besides it only `ccpo.verl_cpu` and `ccpo.verl_gpu` import verl. Thin: data in, pure code from `ccpo`, data out. No formulas live here.

process.py       what every process of a job does first
network.py       on which addresses a job can be reached
nodes.py         whether other machines can do their part of it; look.py: what a process on each of them sees
loading.py       torch files as plain data
lean.py          what such a process need not import
early.py         processes that start while others are still busy
fit.py           settings that fit the GPU
preflight.py     every check that can be made before Ray starts
dataset.py       the part of them that reads the data
agent_loops.py   one session on verl's rollout servers
trajectory.py    a turn -> a TransferQueue row that keeps its own role and reward
rows.py          TransferQueue rows <-> the method's sessions, in an order that does not depend on arrival
estimator.py     `algorithm.adv_estimator=ccpo`
trainer.py       verl's synchronous trainer with roles, history, policies and atomic checkpoints
update.py        whether an update needs a pass before it, and the comparison with the rollout server
worker.py        verl's worker process, with that update
policies.py      which policy plays which roles
"""
