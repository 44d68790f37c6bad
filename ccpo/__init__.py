"""Counterfactual Credit Policy Optimization: credit for each agent's own contribution to a team of language models.

Module map, in the order in which one training step uses it:

    prompts.py        what each role is asked
    topology/         who speaks when (generation is injected)
    algebra.py        LaTeX answers: one spelling, simple values
    verifier.py       text -> outcome reward
    types.py          the vocabulary: CreditTable in, CreditResult out
    credit/           the method: one module per family of rules, equation and source on top
    metrics.py        what is logged about credit
    config.py         the ``ccpo:`` node of the configuration and its checks
    run/              what a run leaves on disk
    verl_plugin/      the bridge to verl: the only package that knows both
    verl_cpu/         optional: verl without a GPU; knows nothing of ccpo
"""
