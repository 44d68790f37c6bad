"""Exported models: the checkpoint's weights bit for bit, a card whose code runs, and nothing of the user's deleted.

The shards are written by verl's own checkpoint manager, from FSDP2 models on one and on two processes.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")

import torch  # noqa: E402
from huggingface_hub import ModelCard  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: E402

from ccpo.config import CcpoConfig, Policy  # noqa: E402
from ccpo.credit.history import HistoryState  # noqa: E402
from ccpo.run import checkpoint  # noqa: E402
from ccpo.run.folder import ACTOR, JOB, MARKER, METRICS, policy_folder, step_folder  # noqa: E402
from ccpo.run.run_log import RunLog  # noqa: E402
from data_preprocess.toy import draw_problems  # noqa: E402
from data_preprocess.toy_lessons import vote_messages  # noqa: E402
from data_preprocess.toy_model import VOTE_TOKENS, accuracy, one_seeded_thread  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "data_preprocess" / "last_digit_model"
sys.path.insert(0, str(ROOT / "scripts"))

import export_model  # noqa: E402
from export_model import ExportError, export  # noqa: E402

SAVE = """
import multiprocessing, sys, torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

base, root = sys.argv[1:]

def save(rank, world_size, adapter=False):
    name = f"lora{world_size}" if adapter else f"world{world_size}"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{root}/store_{name}", rank=rank, world_size=world_size
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    if adapter:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for weight in model.parameters():  # as if trained
            if not adapter or weight.requires_grad:
                weight += (1e-2 if adapter else 1e-4) * torch.randn_like(weight)
    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("fsdp",))
    for layer in (model.base_model.model if adapter else model).model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    manager = FSDPCheckpointManager(
        model, processing_class=AutoTokenizer.from_pretrained(base), checkpoint_config={"save_contents": ["model"]}
    )
    manager.save_checkpoint(f"{root}/{name}")
    torch.distributed.destroy_process_group()

torch.set_num_threads(1)
for world_size, adapter in ((1, False), (2, False), (2, True)):
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=save, args=(r, world_size, adapter)) for r in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert not any(process.exitcode for process in ranks)
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory, in_cpu_fork):
    """world1 and world2: what verl writes into a policy's folder on one and on two processes; lora2: of an adapter, on two."""
    root = tmp_path_factory.mktemp("shards")
    (root / "save.py").write_text(SAVE)
    done = in_cpu_fork([root / "save.py", MODEL, root], root)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def test_an_adapter_is_merged_into_what_is_exported(make_run, shards, tmp_path):
    """Who loads the folder gets the policy that was trained, not the model that it began as."""
    lora = ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.lora_alpha=12"]
    run = make_run(tmp_path / "run", 2, *lora)
    for folder in (step_folder(run, 4) / ACTOR).iterdir():
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    shutil.copytree(shards / "lora2", step_folder(run, 4) / ACTOR, dirs_exist_ok=True)
    (step_folder(run, 4) / MARKER).unlink()
    config = CcpoConfig.from_dict(OmegaConf.to_container(OmegaConf.load(run / JOB).ccpo, resolve=True), 4)
    checkpoint.commit(run, 4, config, 4, HistoryState())
    export(run / "global_step_4", tmp_path / "out")

    parts = [torch.load(shards / f"lora2/model_world_size_2_rank_{rank}.pt", weights_only=False) for rank in range(2)]
    whole = {
        name: torch.cat([part[name].to_local() for part in parts], parts[0][name].placements[0].dim)
        for name in parts[0]
    }
    base = AutoModelForCausalLM.from_pretrained(MODEL).state_dict()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    changed = 0
    for name, weight in base.items():
        front = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{front}.lora_A.default.weight" in whole:
            up, down = whole[f"{front}.lora_B.default.weight"], whole[f"{front}.lora_A.default.weight"]
            weight, changed = weight + 12 / 4 * up @ down, changed + 1
        assert torch.allclose(exported[name], weight, rtol=0, atol=1e-6), name
    assert changed and exported["lm_head.weight"].dtype == torch.float32
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == set()
    assert (
        "| LoRA rank, alpha, modules; merged into these weights | 4, 12, all-linear |"
        in (tmp_path / "out/README.md").read_text()
    )


@pytest.fixture(scope="module")
def make_run(shards, compose):
    """make_run(folder, world_size, *overrides) -> a run with a complete step 4, an unfinished step 6, and a log."""

    def build(run: Path, world_size: int, *overrides: str, name: str = "ccpo_vote") -> Path:
        settings = [
            f"actor_rollout_ref.model.path={MODEL}",
            f"data.train_files={run}/tables/train.parquet",
            "ccpo.seed=7",
        ]
        job = compose(
            "profile=cpu", "task=last_digit", "actor_rollout_ref.rollout.n=4", *settings, *overrides, name=name
        )
        (run / JOB).parent.mkdir(parents=True)
        OmegaConf.save(job, run / JOB)
        config = CcpoConfig.from_dict(OmegaConf.to_container(job.ccpo, resolve=True), 4)
        for step in (2, 4, 6):
            shutil.copytree(shards / f"world{world_size}", policy_folder(step_folder(run, step), "", alone=True))
        for step in (2, 4):
            checkpoint.commit(run, step, config, 4, HistoryState())
        other = "solo" if config.plan.tie is None else "ballot"
        for step, team in ((0, 0.25), (4, 0.625), (6, 0.875)):
            metrics = {
                "val-core/toy/team_accuracy": team,
                f"val-aux/toy/{other}_accuracy": 0.5,
                "val-aux/toy/sessions": 64,
                f"val-aux/toy/{config.plan.roles[0]}/contribution": team - 0.5,
            }
            RunLog(run / METRICS).write(step, "val", metrics)
        return run

    return build


@pytest.fixture(scope="module")
def vote(make_run, tmp_path_factory):
    """(run, export) of a vote whose checkpoint has one shard."""
    root = tmp_path_factory.mktemp("vote")
    run = make_run(root / "run", 1)
    assert export(run, root / "out") == [root / "out"]
    return run, root / "out"


@pytest.fixture(scope="module")
def dyad(make_run, tmp_path_factory):
    """(run, export) of a dyad whose checkpoint has two shards."""
    root = tmp_path_factory.mktemp("dyad")
    run = make_run(root / "run", 2, name="ccpo_dyad")
    export(run / "global_step_4", root / "out")
    return run, root / "out"


@pytest.fixture
def copied(vote, tmp_path):
    """A copy of the vote's run, to be damaged."""
    return Path(shutil.copytree(vote[0], tmp_path / "run"))


def saved_weights(run: Path) -> dict[str, torch.Tensor]:
    """A one-shard checkpoint's tensors, read without verl."""
    state = torch.load(run / "global_step_4/actor/model_world_size_1_rank_0.pt", weights_only=False)
    return {name: tensor.to_local() for name, tensor in state.items()}


@pytest.mark.parametrize("team", ["vote", "dyad"])
def test_weights_are_those_of_the_checkpoint(team, vote, request):
    """Both checkpoints hold the same model; 337 rows of embeddings do not split evenly over two shards."""
    out = request.getfixturevalue(team)[1]
    expected, loaded = saved_weights(vote[0]), AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == tensor.dtype == torch.float32
        assert torch.equal(loaded[name], tensor), name
    assert any(not torch.equal(t, t.bfloat16().float()) for t in expected.values())  # verl's merger would round them
    base = AutoModelForCausalLM.from_pretrained(MODEL).state_dict()
    assert not torch.equal(base["model.embed_tokens.weight"], loaded["model.embed_tokens.weight"])


def test_the_export_has_the_tokenizer_and_generation_config_of_the_base_model(vote):
    out = vote[1]
    messages = [{"role": "user", "content": "Hello"}]
    before, after = (AutoTokenizer.from_pretrained(path) for path in (MODEL, out))
    assert after.apply_chat_template(messages, tokenize=False) == before.apply_chat_template(messages, tokenize=False)
    assert after.get_vocab() == before.get_vocab() and after.eos_token == before.eos_token
    assert GenerationConfig.from_pretrained(out).eos_token_id == GenerationConfig.from_pretrained(MODEL).eos_token_id
    modes = {path.name: path.stat().st_mode & 0o777 for path in out.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_the_exported_model_answers(vote):
    """Chance is 0.1, an unloaded weight's level; the base model votes right on half of the problems."""
    problems = draw_problems("test", 128, random.Random(0))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(vote[1]), AutoTokenizer.from_pretrained(vote[1])
    with one_seeded_thread(0):
        assert accuracy(model, tokenizer, problems, list(map(vote_messages, problems)), VOTE_TOKENS) > 0.35


def test_the_attention_that_the_job_trained_with_stays_with_the_job(copied, tmp_path):
    """verl saves override_config with the model's configuration, and nobody else knows the plugin's attention."""
    forget_files(copied)
    settings = copied / "global_step_4/actor/huggingface/config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"attn_implementation": "torch_varlen"}))
    export_model.export(copied, tmp_path / "out")
    assert "torch_varlen" not in (tmp_path / "out" / "config.json").read_text()
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.fixture(scope="module")
def panel(make_run, tmp_path_factory):
    """(run, export) of a team from a file."""
    root = tmp_path_factory.mktemp("panel")
    run = make_run(root / "run", 1, "ccpo.team='examples/panel.py:Panel'", name="ccpo")
    export(run, root / "out", team="examples/panel.py:Panel")
    return run, root / "out"


@pytest.mark.parametrize("team, examples", [("vote", 1), ("dyad", 2), ("panel", 2)])
def test_the_code_of_the_card_runs_in_its_folder(team, examples, request, monkeypatch, capsys):
    out = request.getfixturevalue(team)[1]
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1 + examples
    monkeypatch.chdir(out)
    torch.manual_seed(0)
    capsys.readouterr()
    exec("\n".join(blocks), {})
    replies = capsys.readouterr().out.splitlines()
    assert len(replies) == examples and any(re.search(r"\d", reply) for reply in replies)


def test_the_card_says_what_was_trained(vote):
    run, out = vote
    parsed, text = ModelCard.load(out / "README.md"), (out / "README.md").read_text()
    assert parsed.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["ccpo", "verl"],
    }
    assert "Team: `vote`, with the roles `voter_0`, `voter_1`, `voter_2`. N voters and a plurality" in text
    assert "### voter_0, voter_1, voter_2\n" in text and "[system] Vote.\n[user] {question}\n" in text
    assert "{others}" not in text, "one round: nobody hears the others"
    assert "casts a ballot: the plurality is the team's answer" in text
    assert "| team | 0.625 [" in text and "at step 4 |" in text  # not step 6
    assert "| voter_0: contribution | +0.125 |" in text
    assert "| credit rule, normalization | leave_one_out, history |" in text and "(ccpo.seed) 7" in text
    assert "`tables/train.parquet`" in text and str(run) not in text  # no folders of the user in what is published


def test_the_card_of_a_dyad_has_every_prompt_and_runs_the_longest(dyad):
    text = (dyad[1] / "README.md").read_text()
    reason = text.split("### reason")[1]
    assert "Prompt with `question`, `thought`:" in reason and "[user] {question}\nThought: {thought}\n" in reason
    assert "Prompt with `question`:" in reason and "hears `think`, and gives the team's answer" in reason
    assert '"content": "What is the last digit of (3+4)*5?\\nThought: 3+4=7"' in reason
    assert "| solo | 0.500 [" in text and "| think: contribution | +0.125 |" in text


def test_the_card_of_a_team_from_a_file(panel):
    run, out = panel
    text = (out / "README.md").read_text()
    assert "(Panel, step 4)" in text and "A panel: one" in text
    assert "### think\n" in text and "### reason_0, reason_1, reason_2\n" in text
    assert "| team | `examples/panel.py:Panel` |" in text and str(ROOT) not in text
    assert "| credit rule, normalization | removal, history |" in text


def test_the_card_of_a_team_from_a_file_can_be_written_from_any_folder(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = export_model.open_checkpoint(panel[0], "examples/panel.py:Panel")
    assert "### reason_0, reason_1, reason_2\n" in export_model.card(opened, opened.policies[0])


def test_the_card_tells_voters_apart(make_run, tmp_path):
    options = ["ccpo.prompts=math", "ccpo.team_kwargs.rounds=2", "ccpo.credit.rule=removal"]
    options += [
        "++ccpo.roles.voter_0={persona: Careful.}",
        "++ccpo.roles.voter_1={persona: Bold., prompts: choice, stop: [END]}",
        "++ccpo.roles.voter_2={persona: Bold., prompts: choice, stop: [END]}",
        "actor_rollout_ref.model.path=org/base",
    ]
    opened = export_model.open_checkpoint(make_run(tmp_path / "run", 1, *options))
    (policy,) = opened.policies
    text = export_model.card(opened, policy)
    assert ModelCard(text).data.base_model == "org/base"
    assert "### voter_0\n" in text and "stop_strings=['END']" in text
    assert text.count("{others}") == 3 and "[system] Solve the problem step by step." in text
    assert " Bold.\n" in text and "D. 7" in text.split("### voter_1")[1] and "D. 7" not in text.split("### voter_1")[0]
    assert "up to 2 times" in text and "| ccpo.team_kwargs.rounds | 2 |" in text
    assert "| ccpo.roles.voter_1.prompts | choice |" in text


def test_several_policies_get_a_folder_each(copied, tmp_path, monkeypatch):
    policies = (Policy("first", ("voter_0",), "org/first"), Policy("rest", ("voter_1", "voter_2")))
    monkeypatch.setattr(CcpoConfig, "policy_list", lambda config: policies)
    monkeypatch.setattr(checkpoint, "fingerprint", lambda config, n: {})
    monkeypatch.setattr(export_model, "fingerprint", lambda config, n: {})
    for policy in policies:
        shutil.copytree(copied / "global_step_4" / ACTOR, copied / "global_step_4" / policy.name)
    out = tmp_path / "out"
    assert export(copied, out) == [out / "first", out / "rest"]
    assert sorted(path.name for path in out.iterdir()) == ["first", "rest"]
    assert (out / "rest" / "model.safetensors").exists()
    text = (out / "first" / "README.md").read_text()
    assert ModelCard(text).data.base_model == "org/first"
    assert "`first`, plays `voter_0`." in text and "rest (voter_1, voter_2)" in text
    export_model._check_target(out, force=True)  # an export, which may be replaced


def forget_files(run: Path) -> None:
    """As one who changes files would: the marker then knows of no other."""
    for step in (2, 4):
        marker = step_folder(run, step) / MARKER
        state = json.loads(marker.read_text())
        marker.write_text(json.dumps(state | {"files": {}, "sha256": {}}))


def damage_marker(run: Path) -> None:
    for step in (2, 4):
        (step_folder(run, step) / MARKER).unlink()


def damage_rule(run: Path) -> None:
    file = run / "hydra/.hydra/config.yaml"
    job = OmegaConf.load(file)
    job.ccpo.credit.rule = "shapley"
    OmegaConf.save(job, file)


def damage_team(run: Path) -> None:
    file = run / "hydra/.hydra/config.yaml"
    job = OmegaConf.load(file)
    job.ccpo.team = "gone/team.py:Mine"
    OmegaConf.save(job, file)


def flip_bytes(run: Path) -> None:
    file = run / "global_step_4/actor/model_world_size_1_rank_0.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def make_old(run: Path) -> None:
    file = run / "hydra/.hydra/config.yaml"
    job = OmegaConf.load(file)
    job.ccpo.topology = job.ccpo.pop("team")
    OmegaConf.save(job, file)


def test_a_checkpoint_of_an_earlier_version_is_left_to_verls_merger(copied, tmp_path):
    make_old(copied)
    command = f"python -m verl.model_merger merge --backend fsdp --local_dir {copied / 'global_step_4/actor'} --target_dir OUT"
    with pytest.raises(ExportError, match=re.escape(command)):
        export(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_team_that_is_gone_is_named(copied, tmp_path):
    damage_team(copied)
    with pytest.raises(ValueError, match="the team's file gone/team.py does not exist"):
        export(copied, tmp_path / "out", team="gone/team.py:Mine")


# What another who can write to the folder could have left there, to be run at an export.


class Evil:
    """A pickle that makes a folder when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def evil_weight(run: Path, mark: Path) -> None:
    file = run / "global_step_4/actor/model_world_size_1_rank_0.pt"
    torch.save(torch.load(file, weights_only=False) | {"model.norm.weight": Evil(mark)}, file)


def evil_pickle(run: Path, mark: Path) -> None:
    (run / "global_step_4/actor/model_world_size_1_rank_0.pt").write_bytes(pickle.dumps(Evil(mark)))


def evil_old_format(run: Path, mark: Path) -> None:
    file = run / "global_step_4/actor/model_world_size_1_rank_0.pt"
    torch.save({"weight": Evil(mark)}, file, _use_new_zipfile_serialization=False)


def evil_team(run: Path, mark: Path) -> None:
    (run / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    job = OmegaConf.load(run / JOB)
    job.ccpo.team = f"{run}/evil.py:Vote"
    OmegaConf.save(job, run / JOB)


def evil_model(run: Path, mark: Path) -> None:
    """A model with code of its own, and a configuration that trusts it."""
    folder = run / "global_step_4/actor/huggingface"
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    for name, auto in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        entries = json.loads((folder / name).read_text())
        entries |= {"auto_map": {auto: "evil.Thing"}, "model_type": "evil"}
        (folder / name).write_text(json.dumps(entries))
    job = OmegaConf.load(run / JOB)
    job.actor_rollout_ref.model.trust_remote_code = True
    OmegaConf.save(job, run / JOB)


@pytest.mark.parametrize("trap", [evil_weight, evil_pickle, evil_old_format, evil_team, evil_model])
def test_nothing_in_a_runs_folder_is_run(copied, tmp_path, trap):
    trap(copied, tmp_path / "ran")
    forget_files(copied)
    with pytest.raises(ExportError) as refused:
        export(copied, tmp_path / "out")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()
    said = {
        evil_weight: f"rank_0.pt is more than data: reading it would call {os.mkdir.__module__}.mkdir",
        evil_pickle: "rank_0.pt is no file as torch.save writes it",
        evil_old_format: "rank_0.pt is no file as torch.save writes it",
        evil_team: f"--team {copied}/evil.py:Vote",
        evil_model: "--trust-remote-code",
    }
    assert said[trap] in str(refused.value)
    if trap not in (evil_team, evil_model):
        assert f"merge --backend fsdp --local_dir {copied / 'global_step_4/actor'}" in str(refused.value)


def test_the_traps_work_where_they_are_not_refused(copied, tmp_path):
    """What the test above proves something by."""
    evil_weight(copied, tmp_path / "ran")
    evil_team(copied, tmp_path / "imported")
    forget_files(copied)
    torch.load(copied / "global_step_4/actor/model_world_size_1_rank_0.pt", weights_only=False)
    with pytest.raises(ValueError, match="Vote does not exist"):
        export(copied, tmp_path / "out", team=f"{copied}/evil.py:Vote")
    assert (tmp_path / "ran").exists() and (tmp_path / "imported").exists()


def test_the_program_of_a_team_is_run_when_the_caller_says_which(panel, tmp_path):
    with pytest.raises(ExportError, match="--team examples/panel.py:Panel"):
        export(panel[0], tmp_path / "out")


def test_no_team_is_known_by_name():
    code = re.sub(r'""".*?"""', "", (ROOT / "scripts" / "export_model.py").read_text(), flags=re.DOTALL)
    assert not re.search(r"\b(dyad|voter|think|reason|thought|solo|emptied)\b|voter_\d", code)


@pytest.mark.parametrize(
    "damage, names",
    [
        (damage_marker, "no complete checkpoint"),
        (
            lambda run: (run / "global_step_4/actor/model_world_size_1_rank_0.pt").unlink(),
            "actor/model_world_size_1_rank_0.pt is missing",
        ),
        (lambda run: (run / "global_step_4/actor/fsdp_config.json").unlink(), "fsdp_config.json is missing"),
        (
            lambda run: (forget_files(run), shutil.rmtree(run / "global_step_4/actor/huggingface")),
            "has no config.json",
        ),
        (
            lambda run: (forget_files(run), (run / "global_step_4/actor/model_world_size_1_rank_0.pt").unlink()),
            "lacks 1 of its 1 weight shards",
        ),
        (lambda run: shutil.rmtree(run / "hydra"), "config.yaml is missing"),
        (damage_rule, "trained with ccpo.credit.rule='leave_one_out', not 'shapley'"),
        (shutil.rmtree, "is no folder"),
        (flip_bytes, "actor/model_world_size_1_rank_0.pt has other bytes than were saved"),
    ],
)
def test_a_damaged_checkpoint_is_refused(copied, tmp_path, damage, names):
    damage(copied)
    with pytest.raises(ExportError, match=re.escape(names)):
        export(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_step_is_refused_by_the_command(copied, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export_model.py", str(copied / "global_step_6"), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"error: .*ccpo_state.json.*not finished.*\[2, 4\]"):
        export_model.main()


def test_force_replaces_an_export_and_nothing_else(copied, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="--force"):
        export(copied, out)
    with pytest.raises(ExportError, match="something else than an earlier export"):
        export(copied, out, force=True)
    with pytest.raises(ExportError, match="something else than an earlier export"):
        export(copied, copied, force=True)
    assert (out / "thesis.tex").exists() and (copied / "global_step_4").exists()
    (out / "thesis.tex").unlink()
    export(copied, out)  # an empty folder is free
    (out / "old").touch()
    with pytest.raises(ExportError, match="not empty"):
        export(copied, out)
    assert (out / "old").exists()
    export(copied / "global_step_2", out, force=True)
    assert not (out / "old").exists() and "step 2)" in (out / "README.md").read_text()


def test_a_failure_leaves_the_earlier_export(vote, copied, tmp_path):
    out = Path(shutil.copytree(vote[1], tmp_path / "out"))
    before = (out / "model.safetensors").read_bytes()
    (copied / "global_step_4/actor/model_world_size_1_rank_0.pt").write_bytes(b"cut short")
    with pytest.raises(Exception):  # noqa: B017 - torch's own
        export(copied, out, force=True)
    assert (out / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


@pytest.fixture
def result(tmp_path):
    """result(run, name, *more) -> what `evaluate` writes about a run's checkpoint"""
    pytest.importorskip("openai")
    import evaluate

    from data_preprocess.schema import write_dataset
    from data_preprocess.toy import dataset_rows

    write_dataset(tmp_path / "data", {"test": dataset_rows("test", 4, 0)}, name="toy", command=["made"])
    fixed = [
        "--data",
        tmp_path / "data",
        "--cache",
        tmp_path / "cache",
        "--backend",
        "cpu",
        "--k",
        2,
        "--controls",
        "none",
    ]

    def evaluated(run: Path, name: str, *more: str) -> dict:
        evaluate.main([str(word) for word in ("--model", run, *fixed, "--out", tmp_path / name, *more)])
        return json.loads((tmp_path / name / "result.json").read_text())

    return evaluated


def test_a_checkpoint_is_evaluated_as_it_was_trained(vote, result, tmp_path, capsys):
    """Team, prompts and limits are the run's; the exported model is kept, and used again by the same checkpoint wherever it lies."""
    first = result(vote[0], "first")
    roles = first["settings"]["roles"]
    assert set(roles) == {"voter_0", "voter_1", "voter_2"} and {role["step"] for role in roles.values()} == {4}
    assert roles["voter_0"]["max_tokens"] == 16 and roles["voter_0"]["temperature"] == 1.0
    said = capsys.readouterr()
    assert "exporting" in said.err and said.out.startswith("vote, 4 questions")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for name in ("mine", f"ccpo-{'0' * 24}", f".ccpo-{'0' * 24}.7.tmp"):
        (tmp_path / "cache" / name).mkdir()
        os.utime(tmp_path / "cache" / name, (0, 0))
    again = result(Path(shutil.copytree(vote[0], tmp_path / "moved")) / "global_step_4", "again")
    assert "exporting" not in capsys.readouterr().err and again["questions"] == first["questions"]
    (tmp_path / "cache" / "mine").rmdir()  # what was not ours stayed, what nobody used went
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert torch.equal(
        *(
            AutoModelForCausalLM.from_pretrained(folder).lm_head.weight
            for folder in (vote[1], next((tmp_path / "cache").iterdir()))
        )
    )


@pytest.mark.slow
def test_a_checkpoint_can_be_evaluated_as_another_team(vote, result):
    assert set(result(vote[0], "other", "--team", "dyad")["measures"]["roles"]) == {"think", "reason"}


def test_a_reward_that_a_runs_folder_names_is_not_run(copied, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef reward(text, truth, row):\n    return 1.0\n")
    job = OmegaConf.load(copied / JOB)
    job.ccpo.reward = f"{own}:reward"
    OmegaConf.save(job, copied / JOB)
    export_model.open_checkpoint(copied)
    assert not (tmp_path / "ran").exists()
