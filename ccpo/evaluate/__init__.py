"""Evaluation of any team without training: who contributes, what it costs, what one agent does with the same tokens.

Every model is reached as an OpenAI-compatible endpoint; one that lies on a disk is served by a process that is started for it.

    client.py     one endpoint: requests, retries, what an answer was
    servers.py    local models behind servers of their own; guard.py ends them with us
    data.py       the rows that are asked
    sessions.py   a team's program played over endpoints; one line of JSON each
    controls.py   one agent at the same token budget, alone and voting with itself
    job.py        all of an evaluation: what is missing is played, until nothing is
    store.py      the folder of results: it can be killed and goes on
    measures.py   numbers with intervals; results.py: those of a whole evaluation; tables.py: for people
    compare.py    two evaluations, paired by question
"""


class EvaluationError(ValueError):
    """Something the user can mend; its text says how."""
