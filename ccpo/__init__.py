"""Counterfactual Credit Policy Optimization: credit for each agent's own contribution to a team of language models.

Module map, in the order in which one training step uses it:

    prompts.py        what each role is told
    team/             teams as programs; counterfactuals as replays; plans without a model
    algebra.py        LaTeX answers: one spelling, simple values
    verifier.py       text -> verdict, with a hard time limit
    plurality.py      what a vote is worth
    types.py          the vocabulary: sessions as columns, and as records
    credit/           the method: one module per family of rules, equation and source on top; rules.py lists them
    metrics.py        what is logged about credit
    step.py           sessions + settings + history -> advantages: all that a trainer calls
    config.py         the ``ccpo:`` node of the configuration and its checks
    run/              what a run leaves on disk
    evaluate/         any team over any endpoint, without training
    verl_plugin/      the bridge to verl: the only package that knows both
    verl_cpu/         optional: verl without a GPU; knows nothing of ccpo
"""

from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.step import StepSettings, compute_advantages
from ccpo.types import ReplayRecord, SessionRecord, Sessions, StepResult, TurnRecord

__all__ = [
    "CreditConfig",
    "HistoryConfig",
    "HistoryState",
    "ReplayRecord",
    "SessionRecord",
    "Sessions",
    "StepResult",
    "StepSettings",
    "TurnRecord",
    "compute_advantages",
]
