"""recipe/main_sft.py: lessons as tokens, what is refused, the export; and the real trainer (slow)."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import hydra  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: E402

from data_preprocess import pass_rate, sft_roles  # noqa: E402

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import evaluate  # noqa: E402

MODEL = ROOT / "data_preprocess" / "last_digit_model"
SMOLLM2 = (  # its chat template: a system message of its own where there is none
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def modules(monkeypatch):
    """(main_sft, sft_worker)"""
    monkeypatch.syspath_prepend(ROOT / "recipe")
    import main_sft
    import sft_worker

    return SimpleNamespace(main=main_sft, worker=sft_worker)


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def save(path: Path, *chats: list[tuple[str, str]]) -> Path:
    rows = [{"messages": [{"role": role, "content": text} for role, text in chat]} for chat in chats]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def lesson(question="What is 1+1?", reply="2"):
    return [("user", question), ("assistant", reply)]


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, SMOLLM2], ids=["own", "smollm2"])
def test_a_lesson_is_what_a_rollout_asks_and_ends_where_it_stops(modules, tokenizer, tmp_path, template):
    tokenizer.chat_template = template or tokenizer.chat_template
    chats = [lesson(), [("system", "Think."), ("user", "1+1?"), ("assistant", "1+1=2\nso")]]
    found = modules.worker.tokenized(save(tmp_path / "a.parquet", *chats), tokenizer, "llama", 128)
    for (prompt, reply), chat in zip(found, chats, strict=True):
        asked = [{"role": role, "content": text} for role, text in chat[:-1]]
        assert prompt == tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
        assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
        assert tokenizer.decode(reply) == f"{chat[-1][1]}<|im_end|>", (
            "verl's own data set learns a line break behind it, too"
        )
        assert reply[-1] == tokenizer.eos_token_id
    row = modules.worker.Lessons(found)[1]
    assert row["input_ids"].tolist() == [*found[1].prompt, *found[1].reply]
    assert row["input_ids"][row["loss_mask"].bool()].tolist() == found[1].reply
    assert row["position_ids"].tolist() == list(range(len(row["input_ids"])))


@pytest.mark.parametrize(
    "chat, reason",
    [
        (lesson(reply="2<|im_end|> and on"), "row 1: the model's tokenizer reads .* special token"),
        (lesson(question="x" * 500), "row 1: 5.. tokens, more than data.max_length=128"),
        ([("assistant", "2")], "row 1: a lesson is a chat"),
        ([("assistant", "2"), ("user", "1+1?")], "row 1: a lesson is a chat"),
        ([("user", "1+1?"), ("assistant", None)], "row 1: a lesson is a chat"),
    ],
)
def test_a_lesson_that_cannot_be_taught_is_named(modules, tokenizer, tmp_path, chat, reason):
    path = save(tmp_path / "a.parquet", lesson(), chat)
    with pytest.raises(modules.worker.LessonError, match=reason):
        modules.worker.tokenized(path, tokenizer, "llama", 128)


@pytest.mark.parametrize("content", [b"", b"PAR1 and more", b"{}"])
def test_a_file_that_holds_no_lessons_is_named(modules, tokenizer, tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(modules.worker.LessonError, match="a.parquet is no file of lessons"):
        modules.worker.tokenized(tmp_path / "a.parquet", tokenizer, "llama", 128)
    pq.write_table(pa.table({"question": ["q"]}), tmp_path / "a.parquet")
    with pytest.raises(modules.worker.LessonError, match="is no file of lessons"):
        modules.worker.tokenized(tmp_path / "a.parquet", tokenizer, "llama", 128)


def test_an_end_that_ends_nothing_is_refused(modules, tokenizer):
    assert modules.main.check_end(tokenizer, GenerationConfig()) == "<|im_end|>"
    tokenizer.eos_token = "<|endoftext|>"  # as SmolLM2's base model has it
    with pytest.raises(modules.main.TeachError, match="ends a turn with '<|im_end|>'.*stops on '<|endoftext|>'"):
        modules.main.check_end(tokenizer, GenerationConfig(eos_token_id=[0]))
    assert modules.main.check_end(tokenizer, GenerationConfig(eos_token_id=[0, 2])) == "<|im_end|>"


# --- what is refused --------------------------------------------------------------------------------------------------


def composed(*overrides: str):
    with hydra.initialize_config_dir(str(ROOT / "recipe" / "sft"), version_base=None):
        return hydra.compose("sft", overrides=list(overrides))


@pytest.fixture
def config(tmp_path):
    """A job on the CPU that passes every check."""
    rows = [lesson(f"What is {a}+{b}?", str(a + b)) for a in range(4) for b in range(4)]
    files = {name: save(tmp_path / f"{name}.parquet", *rows) for name in ("train", "val")}
    return composed(
        "profile=cpu",
        *(f"model.path={MODEL}", f"data.train_files={files['train']}", f"data.val_files={files['val']}"),
        *("data.max_length=64", "data.train_batch_size=8", f"trainer.default_local_dir={tmp_path / 'out'}"),
    )


def test_the_plan(modules, config):
    plan = modules.main.check(config)
    assert plan.facts["steps"] == 6 and plan.facts["lessons"] == 16 and plan.facts["end_of_turn"] == "<|im_end|>"
    assert plan.facts["tokens_per_epoch"] == sum(len(prompt) + len(reply) for prompt, reply in plan.tokens["train"])
    assert plan.facts["learned_tokens_per_epoch"] == sum(len(reply) for _, reply in plan.tokens["train"])
    assert any("a turn ends with <|im_end|>" in line for line in plan.lines)


@pytest.mark.parametrize(
    "name, value, reason",
    [
        ("model.path", "no/such/folder", "there is no such folder"),
        ("model.path", "nowhere", "cannot be loaded"),
        ("model.lora_rank", -1, "lora_rank=-1: set a whole number"),
        ("model.lora_rank", 1.5, "lora_rank=1.5: set a whole number"),
        ("model.lora_rank", True, "lora_rank=True: set a whole number"),
        ("model.lora.rank", 8, "model.lora.rank: those are Megatron's"),
        ("model.lora.dropout", 0.1, "model.lora.dropout: those are Megatron's"),
        ("model.lora_adapter_path", "/mine", "recipe/merge_adapter.py has merged the old one"),
        ("data.train_files", "none.parquet", "no file of lessons none.parquet"),
        ("data.val_files", None, "no file of lessons None"),
        ("data.max_length", 257, "more than the 256 positions"),
        ("data.train_batch_size", 17, "has 16 lessons, fewer than"),
        ("data.train_batch_size", 0, "no multiple of the 1"),
        ("trainer.n_gpus_per_node", 3, "no multiple of the 3"),
        ("trainer.n_gpus_per_node", "all", "N_GPUS.*whole number"),
        ("trainer.total_epochs", 0, "total_epochs=0: set a whole number"),
        ("trainer.total_training_steps", 7, "3 epoch.* have 6 steps; set 1 to 6"),
        ("trainer.logger", ["console"], "has no file, and the last losses are read"),
        ("trainer.logger", "console", "has no file"),
        ("checkpoint.save_contents", ["model"], "has no hf_model, and the taught model is made of it"),
        ("data.train_max_samples", 100, "data.train_max_samples=100: .* change nothing"),
        ("data.apply_chat_template_kwargs", {"enable_thinking": False}, "change nothing"),
        ("trainer.nnodes", 2, "one machine"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    modules, config, tmp_path, monkeypatch, name, value, reason
):
    from huggingface_hub import constants
    from omegaconf import OmegaConf

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # a hub that is not there is asked for twenty seconds
    OmegaConf.update(config, name, value, force_add=True)
    with pytest.raises((modules.main.TeachError, modules.worker.LessonError), match=reason):
        modules.main.teach(config)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(modules, config, tmp_path):
    out = tmp_path / "out"
    assert modules.main.begun(out) is False
    (out / "unfinished").mkdir(parents=True)
    assert modules.main.begun(out) is True
    (out / "unfinished" / "theirs").write_text("")
    with pytest.raises(modules.main.TeachError, match="no job of this command made it"):
        modules.main.begun(out)
    (out / "unfinished" / "tokens.pt").write_text("")
    assert modules.main.begun(out) is True
    (out / "unfinished").rename(tmp_path / "elsewhere")
    for place in (out / "unfinished").write_text, lambda _: (out / "unfinished").symlink_to(tmp_path / "elsewhere"):
        place("of somebody else")
        with pytest.raises(modules.main.TeachError, match="no job of this command made it"):
            modules.main.begun(out)
        (out / "unfinished").unlink()
    (out / "notes.txt").write_text("")
    with pytest.raises(modules.main.TeachError, match="notes.txt"):
        modules.main.begun(out)
    (out / "model").mkdir()
    with pytest.raises(modules.main.TeachError, match="a taught model already"):
        modules.main.teach(config)
    (tmp_path / "file").write_text("")
    with pytest.raises(modules.main.TeachError, match="is a file"):
        modules.main.begun(tmp_path / "file")


def test_a_removal_that_was_interrupted_goes_on(modules, tmp_path, monkeypatch):
    """Whatever it has removed already, the folder is known for an earlier job's."""
    from sft_worker import TOKENS

    out = tmp_path / "out"
    part = out / "unfinished"
    (part / "global_step_2" / "huggingface").mkdir(parents=True)
    for name in (TOKENS, "config.yaml", "metrics.jsonl", "zzz"):
        (part / name).write_text("")
    (part / "link").symlink_to(tmp_path)
    unlink, calls = Path.unlink, iter(range(100))

    def interrupted(path):
        if next(calls) % 2:
            raise KeyboardInterrupt
        unlink(path)

    monkeypatch.setattr(Path, "unlink", interrupted)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            modules.main.remove(part)
        assert modules.main.begun(out) is True
    assert [path.name for path in part.iterdir()] == [TOKENS]
    monkeypatch.undo()
    modules.main.remove(part)
    assert not part.exists() and tmp_path.exists()
    modules.main.remove(part)


LISTENER = """
import json, os, psutil, sys, torch
torch.distributed.init_process_group("gloo")
torch.distributed.all_reduce(torch.ones(1))
found = {
    connection.laddr.ip
    for process in (psutil.Process(), psutil.Process().parent())
    for connection in process.net_connections("inet")
    if connection.status == psutil.CONN_LISTEN
}
torch.distributed.barrier()
print(json.dumps(sorted(address.removeprefix("::ffff:") for address in found)), file=open(f"{sys.argv[1]}.{os.environ['RANK']}", "w"))
"""


ALONE = pytest.param(1, marks=pytest.mark.slow)  # two listen where one does, and to each other


@pytest.mark.parametrize("processes", [ALONE, 2])
def test_no_port_of_a_job_is_open_to_other_machines(modules, tmp_path, processes):
    """torchrun's own store takes pickles from whoever reaches it."""
    (tmp_path / "worker.py").write_text(LISTENER)
    command, environment = modules.main.launched(tmp_path / "worker.py", tmp_path / "found", processes)
    done = subprocess.run(
        command, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(processes):
        found = json.loads((tmp_path / f"found.{rank}").read_text())
        assert found and all(address in ("127.0.0.1", "::1") for address in found), found


def test_two_jobs_do_not_share_a_folder(modules, config, tmp_path):
    from ccpo.config import ConfigError
    from ccpo.run.lock import run_lock

    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from ccpo.run.lock import run_lock\nwith run_lock({str(tmp_path / 'out')!r}): input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as other:
        try:
            for _ in range(200):
                if (tmp_path / "out" / "run.lock").exists() and (tmp_path / "out" / "run.lock").read_text():
                    break
                other.poll() is None or pytest.fail("it ended")
                __import__("time").sleep(0.05)
            with pytest.raises(ConfigError, match="is in use"):
                modules.main.teach(config)
        finally:
            other.communicate(b"\n", timeout=30)
    with run_lock(tmp_path / "out"):
        pass


def test_a_gpu_gets_what_fits_it(modules):
    """profile=gpu leaves attention, packs and checkpointing to the model and the GPU."""
    small = AutoConfig.from_pretrained(MODEL)

    def filled(gib: float, model=small, *overrides: str):
        config = composed("trainer.n_gpus_per_node=1", *overrides)
        lines = modules.main.fill(config, model, gib * 2**30)
        attention = config.model.override_config.attn_implementation
        return attention, config.data.max_token_len_per_gpu, config.model.enable_gradient_checkpointing, lines

    assert filled(80.0) == ("torch_varlen", 32_768, False, [])
    odd = AutoConfig.from_pretrained(MODEL, head_dim=12)
    attention, pack, _, lines = filled(80.0, odd)
    assert (attention, pack) == ("sdpa", 16_384) and "multiple of 8" in lines[0]
    with pytest.raises(modules.main.TeachError, match="does not fit: its heads have 12"):
        filled(80.0, odd, "model.override_config.attn_implementation=torch_varlen")
    assert filled(80.0, small, "data.max_token_len_per_gpu=2048", "model.enable_gradient_checkpointing=true")[1:3] == (
        2048,
        True,
    )
    with pytest.raises(modules.main.TeachError, match="the model does not fit"):
        filled(80.0, small, "data.max_length=100000000")


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_setting_is_one_of_verls(profile):
    from omegaconf import OmegaConf

    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        theirs = OmegaConf.to_container(hydra.compose("sft_trainer_engine"))
    ours = OmegaConf.to_container(composed(f"profile={profile}"))

    def new(mine, other, path=""):
        for key, value in mine.items():
            where = f"{path}{key}"
            if key not in other:
                yield where
            elif isinstance(value, dict) and isinstance(other[key], dict) and other[key]:
                yield from new(value, other[key], f"{where}.")

    assert set(new(ours, theirs)) <= {"engine.mixed_precision"}


# --- export -----------------------------------------------------------------------------------------------------------


def test_the_export_is_a_model_like_any_other(modules, tmp_path):
    made = tmp_path / "part" / "global_step_3" / "huggingface"
    shutil.copytree(MODEL, made)
    facts = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(facts | {"_attn_implementation": "torch_varlen", "dtype": "bfloat16"}))
    (made / "additional_chat_templates").mkdir()  # of a tokenizer that has several
    (made / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    sums = modules.main.export(tmp_path / "part", tmp_path / "model", 3, str(MODEL))
    assert (tmp_path / "model" / "additional_chat_templates" / "tool_use.jinja").exists()
    assert set(sums) == {"model.safetensors"} and not made.exists()
    text = (tmp_path / "model" / "config.json").read_text()
    assert "torch_varlen" not in text and "bfloat16" not in text
    theirs, ours = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (MODEL, tmp_path / "model"))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_what_goes_on_is_printed(modules, tmp_path):
    facts = {"seconds": 3.0, "weights": {"model.safetensors": "ab"}, "train/loss": 1.0}
    written = {"teams": ["dyad", "examples/chain.py:Chain"], "prompts": "math"}
    (tmp_path / "manifest.json").write_text(json.dumps({"roles": written}))
    lines = modules.main.closing(Path("o"), str(tmp_path / "sft_train.parquet"), facts)
    assert lines[:2] == ["taught in 3 s: train/loss 1.000", "sha256 ab o/model/model.safetensors"]
    assert (
        lines[-1]
        == f"    TEAM=examples/chain.py:Chain MODEL=o/model DATA={tmp_path} TASK=gsm8k bash recipe/run_ccpo.sh"
    )
    other = {"teams": ["vote"], "prompts": "odd one", "start": ["own", "partial", "ccpo.team_kwargs.n_voters=5"]}
    (tmp_path / "manifest.json").write_text(json.dumps({"roles": other}))
    lines = modules.main.closing(Path("o"), str(tmp_path / "sft_train.parquet"), facts)
    assert lines[-1] == (
        f"    TEAM=vote MODEL=o/model DATA={tmp_path} TASK=own bash recipe/run_ccpo.sh ccpo.team_kwargs.n_voters=5 'ccpo.prompts=odd one'"
    )
    for damaged in ("{}", "[]", '{"roles": []}'):
        (tmp_path / "manifest.json").write_text(damaged)
        lines = modules.main.closing(Path("o"), str(tmp_path / "sft_train.parquet"), facts)
        assert lines[-1] == f"    MODEL=o/model DATA={tmp_path} TASK=gsm8k bash recipe/run_ccpo.sh"


def test_a_model_that_broke_is_not_exported(modules, tmp_path):
    with pytest.raises(modules.main.TeachError, match="without its last checkpoint"):
        modules.main.export(tmp_path, tmp_path / "model", 3, str(MODEL))
    made = tmp_path / "global_step_3" / "huggingface"
    shutil.copytree(MODEL, made)
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    model.save_pretrained(made)
    with pytest.raises(modules.main.TeachError, match="model.norm.weight is not finite"):
        modules.main.export(tmp_path, tmp_path / "model", 3, str(MODEL))
    assert not (tmp_path / "model").exists()


# --- the command ------------------------------------------------------------------------------------------------------


def command(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(ROOT / "recipe" / "run_sft_roles.sh"), *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_values_arrive_whatever_they_are_called():
    odd = "it's [a] {b}, $c=(d) #2024\\"
    done = command("optim.lr=1e-4", DRY_RUN="1", DATA=odd, OUT=odd, MODEL=odd, N_GPUS="2")
    words = shlex.split(done.stdout)
    config = composed(*words[words.index("recipe/main_sft.py") + 1 :])
    assert config.model.path == config.trainer.default_local_dir == odd
    assert config.data.train_files == f"{odd}/sft_train.parquet" and config.data.val_files == f"{odd}/sft_val.parquet"
    assert config.trainer.n_gpus_per_node == 2 and config.optim.lr == 1e-4
    refused = command(DATA="${HOME}")
    assert refused.returncode == 1 and "cannot be used" in refused.stderr


@pytest.mark.parametrize("word", ["profile=cpu", "profile='cpu'", '+profile="cpu"'])
def test_the_platform_is_that_of_the_profile_as_hydra_reads_it(word):
    code = "import os, sys; sys.path.insert(0, 'recipe'); import main_sft; print(os.environ['VERL_PLATFORM'])"
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"} | {
        "PYTHONPATH": str(ROOT)
    }
    done = subprocess.run(
        [sys.executable, "-c", code, word], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip().endswith("cpu"), done.stderr[-500:]


@pytest.fixture(scope="module")
def roles(tmp_path_factory):
    """A data set of the embedded model's own prompts, 300 questions."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("data") / "roles"
    triples = random.Random(0).sample(
        [(a, b, c) for a in range(1, 10) for b in range(1, 10) for c in range(1, 10)], 300
    )
    rows = [
        {
            "question": f"What is ({a}+{b})*{c}?",
            "answer": f"{a}+{b} = <<{a}+{b}={a + b}>>{a + b}\n{a + b}*{c} = <<{a + b}*{c}={(a + b) * c}>>{(a + b) * c}\n#### {(a + b) * c}",
        }
        for a, b, c in triples
    ]
    for split, listed in (("train", rows[:260]), ("test", rows[260:])):
        (source / f"gsm8k_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    words = ["--out", out, "--source", source, "--teams", "dyad", "vote", "--prompts", "toy", "--held", "0.2"]
    sft_roles.main([str(word) for word in words])
    return out


@pytest.mark.parametrize(
    "words, reason",
    [
        (["model.lora_alpha=0"], "lora_alpha=0: .* from 1 to 4096"),
        (["model.lora_alpha=true"], "lora_alpha=True"),
        (["model.lora_alpha=100000000000000"], "from 1 to 4096"),
        (["model.target_modules=[q_proj,nonexist]"], "target_modules names 'nonexist', which is no layer"),
        (["model.exclude_modules=[nothing]"], "exclude_modules names 'nothing'"),
        (["model.target_modules='['"], "cannot be put on .*unterminated"),
        (["model.target_modules=5"], "cannot be put on"),
        (["model.target_parameters=q_proj.weight"], "cannot be put on"),
        (["model.lora_alpha=0.5"], "lora_alpha=0.5"),
        (["model.target_modules=[q_prj]"], "cannot be put on .*q_prj"),
        (["model.target_modules=[lm_head]"], "lm_head.* output layer"),
        (["model.target_modules=[embed_tokens,q_proj]"], "embed_tokens.* embedding"),
    ],
)
def test_an_adapter_that_cannot_be_taught_or_merged_is_refused(modules, config, tmp_path, words, reason):
    config = hydra_merge(config, "model.lora_rank=4", *words)
    with pytest.raises(modules.main.TeachError, match=reason):
        modules.main.teach(config)
    assert not (tmp_path / "out").exists()


def hydra_merge(config, *words):
    from omegaconf import OmegaConf

    OmegaConf.set_struct(config, False)
    return OmegaConf.merge(config, OmegaConf.from_dotlist(list(words)))


def test_an_adapter_is_in_the_plan(modules, config):
    plan = modules.main.check(hydra_merge(config, "model.lora_rank=4", "model.lora_alpha=8"))
    assert plan.facts["lora_rank"] == 4 and plan.facts["lora_alpha"] == 8
    learned = int(next(line for line in plan.lines if "an adapter of" in line).split()[3].replace(",", ""))
    assert learned == sum(weight.numel() for weight in adapted(4).parameters() if weight.requires_grad)


def test_a_model_whose_settings_could_not_be_saved_is_refused_before_it_is_taught(modules, config, tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_sample": False, "temperature": 0.6}))
    config = hydra_merge(config, f"model.path={tmp_path / 'model'}")
    with pytest.raises(modules.main.TeachError, match="generation_config.json could not be saved again .*temperature"):
        modules.main.teach(config)


@pytest.mark.parametrize("loss", [None, float("nan")])
def test_a_job_that_diverged_is_not_exported(modules, config, tmp_path, monkeypatch, loss):
    """The weights of an adapter may be whole all the same: no step was taken."""

    def train(config, tokens, part):
        part.mkdir(parents=True)
        (part / "metrics.jsonl").write_text(json.dumps({"step": 1, "data": {"train/loss": loss}}) + "\n")

    monkeypatch.setattr(modules.main, "train", train)
    with pytest.raises(modules.main.TeachError, match="train/loss is not a number at the end, .* lower optim.lr"):
        modules.main.teach(config)
    assert not (tmp_path / "out" / "model").exists()


def adapted(rank: int):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    settings = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=3 * rank, target_modules="all-linear")
    torch.manual_seed(0)
    model = get_peft_model(model, settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    return model


@pytest.fixture
def adapter(tmp_path):
    """A folder as peft saves it, and the weights that it makes."""
    model = adapted(4)
    model.save_pretrained(tmp_path / "adapter")
    expected = {name: tensor.clone() for name, tensor in model.merge_and_unload().state_dict().items()}
    return SimpleNamespace(folder=tmp_path / "adapter", expected=expected)


def test_a_taught_adapter_is_merged_and_goes_along(modules, adapter, tmp_path):
    made = tmp_path / "global_step_3" / "huggingface"
    made.mkdir(parents=True)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(made)
    sums = modules.main.export(tmp_path, tmp_path / "model", 3, str(MODEL))
    assert set(sums) == {"model.safetensors", "adapter/adapter_model.safetensors"}
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert set(ours) == set(adapter.expected) and ours["model.norm.weight"].dtype == torch.float32
    for name, weight in adapter.expected.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-5, atol=1e-6)
    assert GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id is not None
    assert not (tmp_path / "adapter").exists() and (tmp_path / "model" / "adapter" / "adapter_config.json").exists()


def test_an_adapter_that_broke_is_not_exported(modules, adapter, tmp_path):
    made = tmp_path / "global_step_3" / "huggingface"
    made.mkdir(parents=True)
    broken = adapted(4)
    next(weight for name, weight in broken.named_parameters() if "lora_A" in name).data[0, 0] = float("nan")
    broken.save_pretrained(adapter.folder)
    with pytest.raises(modules.main.TeachError, match="NaNs detected .* lower optim.lr"):
        modules.main.export(tmp_path, tmp_path / "model", 3, str(MODEL))
    (adapter.folder / "adapter_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(modules.main.TeachError, match="cannot be merged: .*") as cut:
        modules.main.export(tmp_path, tmp_path / "model", 3, str(MODEL))
    assert "optim.lr" not in str(cut.value)
    shutil.rmtree(made)
    with pytest.raises(modules.main.TeachError, match="without its last checkpoint"):
        modules.main.export(tmp_path, tmp_path / "model", 3, str(MODEL))
    assert not (tmp_path / "model").exists()


@pytest.fixture
def merge(modules, monkeypatch):
    """merge(MODEL, ADAPTER, OUT) -> what recipe/merge_adapter.py ends with: None, or its error. In this process: a fork of one that has multiplied hangs."""
    import merge_adapter

    def run(*words):
        monkeypatch.setattr("sys.argv", ["merge_adapter.py", *map(str, words)])
        try:
            merge_adapter.main()
        except SystemExit as ended:
            return ended.code

    return run


def test_merging_by_hand_gives_the_same_weights(merge, modules, adapter, tmp_path):
    assert merge(MODEL, adapter.folder, tmp_path / "merged") is None
    made = tmp_path / "global_step_3" / "huggingface"
    made.mkdir(parents=True)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(made)
    modules.main.export(tmp_path, tmp_path / "model", 3, str(MODEL))
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("merged", "model"))
    assert all(torch.equal(one[name], other[name]) for name in one | other)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert (tmp_path / "merged" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert "nothing is written over it" in merge(MODEL, tmp_path / "model" / "adapter", tmp_path / "merged")


def test_what_cannot_be_merged_is_explained(merge, adapter, tmp_path):
    out = tmp_path / "merged"
    assert "there is no such folder" in merge(tmp_path / "none", adapter.folder, out)
    assert "has no adapter_config.json" in merge(MODEL, MODEL, out)
    facts = json.loads((adapter.folder / "adapter_config.json").read_text())
    (adapter.folder / "adapter_config.json").write_text(json.dumps(facts | {"r": 8}))
    assert "size mismatch" in merge(MODEL, adapter.folder, out)
    for broken in ("[]", json.dumps(facts | {"r": None}), json.dumps(facts | {"lora_alpha": "8"})):
        (adapter.folder / "adapter_config.json").write_text(broken)
        assert "adapter_config.json is not one that peft" in merge(MODEL, adapter.folder, out), broken
    for kind, broken in (("IA3", facts | {"peft_type": "IA3"}), ("None", {})):
        (adapter.folder / "adapter_config.json").write_text(json.dumps(broken))
        assert f"of the kind {kind}" in merge(MODEL, adapter.folder, out)
    (adapter.folder / "adapter_config.json").write_text(json.dumps(facts | {"target_modules": ["q_proj"]}))
    assert "have no place in the other" in merge(MODEL, adapter.folder, out)
    (adapter.folder / "adapter_config.json").write_text(json.dumps(facts))
    (adapter.folder / "adapter_model.safetensors").write_bytes(b"no weights")
    assert "error: " in merge(MODEL, adapter.folder, out)
    assert not out.exists() and not list(tmp_path.glob("merged*")), "nothing is left beside it"
    out.symlink_to(tmp_path / "nowhere")
    assert "nothing is written over it" in merge(MODEL, adapter.folder, out)


def rewritten(folder: Path, change) -> None:
    """An adapter's file of weights with other tensors."""
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda weights: {}, "have no place in the other"),
        (lambda weights: dict(list(weights.items())[2:]), "2 matrices .* have no place in the other"),
        (lambda weights: {f"other.{name}": tensor for name, tensor in weights.items()}, "have no place"),
        (
            lambda weights: weights | {"base_model.model.x.lora_magnitude_vector.weight": torch.zeros(2)},
            "more than LoRA's two matrices .*magnitude",
        ),
    ],
    ids=["none", "some", "others", "more"],
)
def test_an_adapter_that_does_not_fit_the_model_whole_is_refused(merge, adapter, tmp_path, change, reason):
    """peft would merge what fits, and say nothing of the rest."""
    import re

    rewritten(adapter.folder, change)
    assert re.search(reason, merge(MODEL, adapter.folder, tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_an_adapter_on_the_output_layer_is_refused(merge, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"])).save_pretrained(tmp_path / "adapter")
    rewritten(tmp_path / "adapter", lambda weights: {name: t for name, t in weights.items() if ".lora_" in name})
    assert "an embedding or the output layer" in merge(MODEL, tmp_path / "adapter", tmp_path / "merged")


def test_the_product_is_taken_in_float64(merge, adapter, tmp_path):
    """Sums of 4 products in float32 would depend on their order: the last bits tell which it was."""
    generator = torch.Generator().manual_seed(0)
    rewritten(
        adapter.folder,
        lambda weights: {name: torch.randn(t.shape, generator=generator) for name, t in weights.items()},
    )
    assert merge(MODEL, adapter.folder, tmp_path / "merged") is None
    from safetensors.torch import load_file

    factors, found, base = (
        load_file(folder / name)
        for folder, name in (
            (adapter.folder, "adapter_model.safetensors"),
            (tmp_path / "merged", "model.safetensors"),
            (MODEL, "model.safetensors"),
        )
    )
    for name in [name for name in factors if name.endswith("lora_A.weight")]:
        a, b = factors[name], factors[name.replace("lora_A", "lora_B")]
        layer = name.removeprefix("base_model.model.").replace("lora_A.", "")
        assert torch.equal(found[layer], base[layer] + (b.double() @ a.double() * 3).float()), layer


PACKED = ["model.use_remove_padding=true", "model.use_fused_kernels=true", "data.max_token_len_per_gpu=512"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, rate, close",
    [
        pytest.param([], 2e-3, 1e-4, id="padded"),
        pytest.param(PACKED, 2e-3, 1e-4, id="packed"),
        # What is exported was rounded to bfloat16.
        pytest.param([*PACKED, "model.lora_rank=16", "model.lora_alpha=32"], 2e-2, 2e-3, id="adapter"),
    ],
)
def test_the_real_trainer_teaches_and_the_model_is_loaded(roles, tmp_path, record_property, how, rate, close):
    """Four steps of verl's trainer. The validation loss that it logs is that of the exported model, on replies and their end alone."""
    out = tmp_path / "taught"
    words = [
        "profile=cpu",
        "data.train_batch_size=32",
        "data.max_length=128",
        f"optim.lr={rate}",
        "trainer.total_epochs=1",
        *how,
    ]
    given = {"DATA": str(roles), "OUT": str(out)}
    done = command(*words, "trainer.total_training_steps=4", **given)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert sorted(path.name for path in out.iterdir()) == ["metrics.jsonl", "model", "sft.json"]
    log = [json.loads(line)["data"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in log if "train/loss" in line]
    assert len(losses) == 4 and losses[-1] < 0.8 * losses[0], losses
    record_property("sft: train loss, first and last of 4 steps", f"{losses[0]:.2f} {losses[-1]:.2f}")

    model = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    rows = pq.read_table(roles / "sft_val.parquet").to_pylist()
    means = [
        mean_loss(model, tokenizer, [row["messages"] for row in rows[start : start + 32]])
        for start in range(0, len(rows) // 32 * 32, 32)
    ]
    logged = [line["val/loss"] for line in log if "val/loss" in line]
    assert logged[-1] == pytest.approx(sum(means) / len(means), rel=close)

    facts = json.loads((out / "sft.json").read_text())
    assert facts["weights"]["model.safetensors"] in done.stdout and facts["val/loss"] == logged[-1]
    assert (
        f"TEAM=vote MODEL={out}/model DATA={roles} TASK=gsm8k bash recipe/run_ccpo.sh ccpo.prompts=toy" in done.stdout
    )
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = command(*words, **given)
    assert again.returncode == 1 and "a taught model already" in again.stderr and "Traceback" not in again.stderr
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def mean_loss(model, tokenizer, chats) -> float:
    """Of the tokens of the replies and their ends, over all chats: what the trainer has to minimize."""
    losses = []
    for chat in chats:
        prompt = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        whole = f"{prompt}{chat[-1]['content']}<|im_end|>"
        asked, ids = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, whole))
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        losses += (-logits[range(len(ids) - 1), ids[1:]])[len(asked) - 1 :].tolist()
    return sum(losses) / len(losses)


@pytest.mark.slow
def test_a_killed_job_begins_anew_and_says_so(roles, tmp_path):
    out = tmp_path / "taught"
    words = ["profile=cpu", "data.train_batch_size=32", "data.max_length=128", "trainer.total_training_steps=2"]
    given = {**os.environ, "DATA": str(roles), "OUT": str(out), "PYTHONUNBUFFERED": "1"}
    script = ["bash", str(ROOT / "recipe" / "run_sft_roles.sh"), *words]
    with subprocess.Popen(script, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        try:
            for line in job.stdout:
                if line.startswith("step:1") or "step:1 -" in line:
                    break
            assert (out / "unfinished").exists()
        finally:
            job.kill()
        job.stdout.read()  # until its trainer has ended, too: nobody is left that would write there
    done = command(*words, DATA=str(roles), OUT=str(out))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "was ended before it was done, this one begins anew" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["metrics.jsonl", "model", "sft.json"]


# --- the page ---------------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "teach.md").read_text()


@pytest.mark.parametrize(
    "line",
    [
        line[4:]
        for line in PAGE.replace("\\\n", "").splitlines()
        if "    " == line[:4] and ("bash " in line or "python " in line)
    ],
)
def test_a_command_of_the_page_is_one(compose, modules, line):
    words = shlex.split(line)
    if "data_preprocess.sft_roles" in words:
        options = sft_roles.options_of(words[words.index("-m") + 2 :])
        sft_roles.Teacher(options.teams, options.prompts, options.reason)
        return
    if "data_preprocess.pass_rate" in words:
        pass_rate.options_of(words[words.index("-m") + 2 :])
        return
    if "scripts/evaluate.py" in words:
        given = evaluate.arguments_of(words[words.index("scripts/evaluate.py") + 1 :])
        assert given.replays == [] and evaluate.team_of(given, None).plan.roles == ("think", "reason")
        return
    if "recipe/merge_adapter.py" in words:
        import merge_adapter

        assert len(merge_adapter.options_of(words[words.index("recipe/merge_adapter.py") + 1 :]).model.split("/")) == 2
        return
    given = dict(word.split("=", 1) for word in words[: words.index("bash")])
    done = subprocess.run(
        words[words.index("bash") :],
        env={**os.environ, **given, "DRY_RUN": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    ran = shlex.split(done.stdout)
    if "recipe/main_sft.py" in ran:
        composed(*ran[ran.index("recipe/main_sft.py") + 1 :])
    else:
        at = ran.index("--config-name")
        compose(*ran[at + 2 :], name=ran[at + 1])


def test_the_pages_options_are_the_commands(capsys):
    for options_of in (sft_roles.options_of, pass_rate.options_of, evaluate.arguments_of):
        with pytest.raises(SystemExit):
            options_of(["--help"])
    shown = capsys.readouterr().out
    named = {word.strip("`.,;:") for word in PAGE.split() if word.startswith("`--")}
    assert len(named) >= 6 and all(option in shown for option in named)
    options = sft_roles.options_of(["--out", "o", "--teams", "dyad"])
    bounds = pass_rate.options_of(["--data", "d", "--evaluated", "e", "--out", "o"])
    assert f"`--at-least {bounds.at_least}`" in PAGE and f"`--at-most {bounds.at_most}`" in PAGE
    assert f"`--teach {options.teach}`" in PAGE and f"`--held {options.held}`" in PAGE
