"""What is said of a command line that Hydra refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")

import hydra  # noqa: E402

from ccpo.verl_plugin import advice  # noqa: E402

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipe" / "config"

pytestmark = pytest.mark.usefixtures("compose")  # which remembers what Hydra has read


def said(*words: str, name: str = "ccpo_dyad") -> str:
    with hydra.initialize_config_dir(str(CONFIGS), version_base=None):
        with pytest.raises(Exception) as caught:
            hydra.compose(name, overrides=list(words))
    return advice.why_not(caught.value, list(words), CONFIGS)


@pytest.mark.parametrize(
    "word, says",
    [
        ("trainer.total_training_step=3", "did you mean trainer.total_training_steps?"),
        ("actor_rollout_ref.rollout.temprature=1", "did you mean actor_rollout_ref.rollout.temperature?"),
        ("actor_rolout_ref.actor.optim.lr=1", "did you mean actor_rollout_ref.actor.optim.lr?"),
        ("actor_rollout_ref.acto.optim.lr=1", "did you mean actor_rollout_ref.actor.optim.lr?"),
        ("actor_rollout_ref.actor.lr=1", "did you mean actor_rollout_ref.actor.optim.lr?"),
        ("lr=1e-6", "did you mean actor_rollout_ref.actor.optim.lr?"),
        ("model.path=x", "did you mean actor_rollout_ref.model.path?"),
        ("actor.optim.lr=1", "did you mean actor_rollout_ref.actor.optim.lr?"),
        ("data.batch_size=3", "data.train_batch_size?"),
        ("data.max_length=3", "did you mean data.max_prompt_length or data.max_response_length?"),
        ("actor_rollout_ref.rollout.tensor_parallel_size=2", "did you mean actor_rollout_ref.rollout.tensor_model_parallel_size"),
        ("actor_rollout_ref.nothing.there.lr=1", "did you mean actor_rollout_ref.actor.optim.lr?"),
        ("trainr.total_epochs=1", "did you mean trainer.total_epochs?"),
        ("trainer.qqqq=1", "nothing reads such a key there; drop it"),
        ("~trainer.loger", "did you mean trainer.logger?"),
        ("trainer.logger.foo=3", "trainer.logger is no section; set trainer.logger=VALUE"),
        ("profle=cpu", "did you mean profile (cpu, gpu)?"),
        ("sede=3", "did you mean seed?"),
        ("task=maths", "did you mean 'math'? choose one of gsm8k, gsm8k_taught, last_digit, logiqa, math"),
        ("loss=foo", "choose one of paper_v1, token_mean"),
        ("++task=math", "task is a choice of files; leave out the ++"),
        ("critic=foo", "it is a section of settings; set critic.KEY=VALUE"),
        ("+seed=3", "seed is there already; leave out the +"),
        *((f"{name}={value}", f"{name} is a section of settings; set {name}.KEY=VALUE")
          for name in ("data", "reward", "critic") for value in ("null", "3", "true", "")),
        ("trainer.logger=[console", "no viable alternative"),
        ("foo", "foo"),
    ],
)  # fmt: skip
def test_a_refused_word_gets_the_nearest_one(word, says):
    text = said("seed=1", word)
    assert says in text and "use +" not in text and "append" not in text
    assert "\n" not in text


def test_every_misspelt_word_is_named():
    assert said("trainer.savefreq=1", "seed=1", "data.max_prompt_lengt=3").count("did you mean") == 2


def test_what_is_right_is_not_named_beside_a_mistake():
    words = ("actor_rollout_ref.model.override_config.x=1", "ccpo.roles.a.b=2", "trainer.savefreq=1")
    assert said(*words).startswith("trainer.savefreq is not")


def test_a_configuration_that_there_is_not():
    assert "did you mean 'ccpo_vote'? choose one of ccpo, ccpo_dyad, ccpo_vote" in said(name="ccpo_votes")


def test_a_misspelt_group_is_not_let_past_with_a_plus():
    assert "did you mean profile" in advice.unknown_groups(["+profle=cpu", "trainer.x=1"], CONFIGS)[0]
    assert "did you mean profile" in advice.unknown_groups(["++profle=cpu"], CONFIGS)[0]
    assert advice.unknown_groups(["+mine=1", "++seed=2", "+trainer.x=1", "task=math"], CONFIGS) == []


def test_another_error_is_not_explained():
    assert advice.why_not(ValueError("x"), ["seed=1"], CONFIGS) is None


def test_a_start_without_the_package_on_the_path_says_what_to_set(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "recipe" / "main_ccpo.py"), "profile=cpu"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("error: ccpo is not on PYTHONPATH")
    assert f"PYTHONPATH={ROOT}" in done.stderr and "Traceback" not in done.stderr


def test_the_recipe_says_it_in_one_line(in_fork):
    done = in_fork(["recipe/main_ccpo.py", "profile=cpu", "trainer.total_training_step=3"], ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Hydra" not in done.stderr + done.stdout
    assert done.stderr.strip().endswith(
        "error: trainer.total_training_step is not a setting: did you mean trainer.total_training_steps?"
    )
