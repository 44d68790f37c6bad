"""One session as plain data, for people and pages: what was said, read, judged, replayed. The same whoever played it, training or evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccpo.team.replay import Played, called
from ccpo.team.session import Team, Turn


def session_facts(played: Played, team: Team, row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What can be said of a session without the policy's credit, as JSON.

    Args:
        played: the session and its replays.
        team: whose; its words name the replays.
        row: the dataset row (`ccpo.data`).
        number: the session's, within its prompt.

    Returns:
        {"source", "index", "session", "question", "truth", "value": R, "answer": what the team's answer was read as (None: nothing, or a
        plurality), "turns": [turn, ...], "ballots": {role: label} or None, "replays": [{"how", "role", "name", "value", "shared",
        "turns": those decoded for it}, ...]}; a turn is {"role", "number", "text", "truncated", "cut", "answer", "parsed", "reward",
        "leaked"}, where answer, parsed and reward are None unless its run asked it for an answer.
    """
    single = played.outcome.turns[0] if played.outcome.tie is None and played.outcome.turns else None
    verdict = played.verdicts.get(single) if single is not None else None
    return {
        "source": str(row["data_source"]),
        "index": int(row["extra_info"]["index"]),
        "session": number,
        "question": str((row["prompt"] if "prompt" in row else row["raw_prompt"])[-1]["content"]),
        "truth": row["reward_model"]["ground_truth"],
        "value": played.value,
        "answer": verdict.answer if verdict is not None else None,
        "turns": _turns(played, played.turns),
        "ballots": played.ballots,
        "replays": [
            {
                "how": replay.intervention.how,
                "role": replay.intervention.role,
                "name": called(team, replay.intervention),
                "value": replay.value,
                "shared": replay.shared,
                "turns": _turns(played, replay.decoded),
            }
            for replay in played.replays
        ],
    }


def _turns(played: Played, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    out = []
    for turn in turns:
        verdict = played.verdicts[turn]
        out.append(
            {
                "role": turn.role,
                "number": turn.number,
                "text": turn.text,
                "truncated": turn.truncated,
                "cut": turn.cut,
                "answer": verdict.answer if verdict is not None else None,
                "parsed": bool(verdict.parsed) if verdict is not None else None,
                "reward": float(verdict.reward) if verdict is not None else None,
                "leaked": played.leaked[turn],
            }
        )
    return out
