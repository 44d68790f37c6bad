"""verl's loggers: whether one that sends to somebody's account has a login, before anything starts; and a job's settings in tensorboard.

Without a login wandb and clearml end the job after the whole start, and swanlab asks a terminal that is not there. Read here is where their own
packages look (wandb 0.31, swanlab 0.10, clearml 2.1): environment, settings files, .netrc. No key is shown, sent or tried.
"""

from __future__ import annotations

import configparser
import netrc
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from omegaconf import DictConfig, OmegaConf

VOLCENGINE = ("VOLC_ACCESS_KEY_ID", "VOLC_SECRET_ACCESS_KEY", "MLP_TRACKING_REGION")


def problem(logger: Any) -> str | None:
    """What a logger lacks, and what to set; None if it can start."""
    check = {
        "wandb": _wandb,
        "tracking": _wandb,
        "swanlab": _swanlab,
        "clearml": _clearml,
        "vemlp_wandb": _volcengine,
    }.get(logger)
    return check() if check else None


def settings_to_tensorboard(config: DictConfig) -> None:
    """Show a job's settings there as a text, where it logs to it: verl gives them to the other loggers alone."""
    names = config.trainer.logger
    if "tensorboard" not in ([names] if isinstance(names, str) else names):
        return
    from verl.utils.tracking import _TensorboardAdapter

    adapter = _TensorboardAdapter(
        config.trainer.project_name, config.trainer.experiment_name
    )  # a second file in verl's folder
    lines = OmegaConf.to_yaml(config, resolve=True).splitlines()
    adapter.writer.add_text("settings", "\n".join(f"    {line}" for line in lines))  # markdown: as it stands
    adapter.finish()


def _wandb() -> str | None:
    settings = _wandb_settings()
    mode = os.environ.get("WANDB_MODE") or settings.get("mode", "")
    if mode in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return None
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return None
    host = urlparse(os.environ.get("WANDB_BASE_URL") or settings.get("base_url", "https://api.wandb.ai")).hostname
    given = os.environ.get("NETRC")
    files = [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    if any(_has_login(path, host) for path in files):
        return None
    return f"there is no login for {host}: run wandb login, set WANDB_API_KEY, or WANDB_MODE=offline (wandb sync sends it later)"


def _wandb_settings() -> dict[str, str]:
    """What `wandb offline` and `wandb login --host` wrote; the folder's own wins."""
    home = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb").expanduser()
    here = Path(os.environ.get("WANDB_DIR") or ".") / "wandb"
    found = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, OSError, UnicodeDecodeError):
        found.read([home / "settings", here / "settings"], encoding="utf-8")
    return dict(found["default"]) if "default" in found else {}


def _swanlab() -> str | None:
    if os.environ.get("SWANLAB_MODE", "cloud") in ("local", "offline", "disabled") or os.environ.get("SWANLAB_API_KEY"):
        return None
    root = os.environ.get("SWANLAB_ROOT") or os.environ.get("SWANLAB_SAVE_DIR") or Path.home() / ".swanlab"
    if any(_has_login(Path(folder) / ".netrc") for folder in (".swanlab", root)):
        return None
    return "there is no login: run swanlab login, set SWANLAB_API_KEY, or SWANLAB_MODE=local"


def _clearml() -> str | None:
    keys = ("CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY")
    if all(os.environ.get(key) for key in keys) or os.environ.get("CLEARML_OFFLINE_MODE", "0").lower() in ("1", "true"):
        return None
    if Path(os.environ.get("CLEARML_CONFIG_FILE") or "~/clearml.conf").expanduser().is_file():
        return None
    return f"there is no login: run clearml-init, set {' and '.join(keys)}, or CLEARML_OFFLINE_MODE=1"


def _volcengine() -> str | None:
    missing = [name for name in VOLCENGINE if not os.environ.get(name)]
    return f"{', '.join(missing)} must be set, which verl reads its login from" if missing else None


def _has_login(path: Path, host: str | None = None) -> bool:
    """Whether a .netrc has a password for ``host`` (None: for any)."""
    try:
        hosts = netrc.netrc(str(path)).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
    return any(login and login[2] for name, login in hosts.items() if host in (None, name) or name == "default")
