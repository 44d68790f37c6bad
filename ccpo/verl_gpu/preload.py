"""What the fork server imports (`forked.py`); nobody else does."""

from ccpo.verl_gpu import forked

forked.prepare()
