"""Configuration files: where they lie, and what they hold."""

import difflib
import importlib.util
import re
import sys
from pathlib import Path

from ml_collections import ConfigDict

from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED = _PACKAGE / "shipped" / "configs"  # in a wheel, see pyproject.toml
CONFIG_FOLDER = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent / "configs"


def find_config(text: str) -> Path:
    """Returns the configuration file that `text` names.

    A file in the working directory comes before the program's own of the same name.

    Raises:
      UserError: there is none; says where it looked.
    """
    path = expand(text)
    places = [path]
    if path.parts[:1] == (CONFIG_FOLDER.name,):
        places.append(CONFIG_FOLDER.joinpath(*path.parts[1:]))
    for place in places:
        if place.is_file():
            return place
    for place in places:
        if place.is_dir():
            raise UserError(_is_folder(text, place))
    stems = {_stem(name): name for name in config_files()}
    near = difflib.get_close_matches(path.stem, list(stems), n=1)
    hint = f"; did you mean --config={stems[near[0]]}" if near else ""
    looked = " and ".join(dict.fromkeys(str(p.absolute().parent) for p in places))
    raise UserError(
        f"no configuration file {text!r}{hint}; looked in {looked}; "
        f"{CONFIG_FOLDER.parent} holds {', '.join(config_files())}"
    )


def _is_folder(text: str, folder: Path) -> str:
    files = sorted(p.name for p in folder.glob("*.py") if p.name[0] not in "._")
    shown = ", ".join(files[:8]) + (", ..." if len(files) > 8 else "")
    return (
        f"--config: {text!r} is a folder, expected a configuration file such as "
        f"{config_files()[0]}; "
        + (f"it holds {shown}" if files else "it holds no Python file")
    )


def load_config(path_and_preset: str) -> ConfigDict:
    """Returns what `get_config(preset)` of a configuration file gives.

    Raises:
      UserError: there is no such file, or it cannot be run.
    """
    text, _, preset = path_and_preset.partition(":")
    path = str(find_config(text))
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None:
        raise UserError(f"{path!r} is no Python file; expected one such as in configs/")
    if str(CONFIG_FOLDER.parent) not in sys.path:
        sys.path.append(str(CONFIG_FOLDER.parent))  # for `from configs import base`
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(preset) if preset else module.get_config()
    except (SyntaxError, ImportError, LookupError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except (AttributeError, NameError, TypeError, ValueError) as error:
        raise UserError(f"{path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict) or "job" not in config:
        raise UserError(f"{path}: get_config() gave no ConfigDict with a field 'job'")
    return config


def config_files() -> list[str]:
    """The program's own configurations, as `--config` takes them."""
    names = sorted(path.name for path in CONFIG_FOLDER.glob("*.py"))
    return [f"configs/{n}" for n in names if n not in ("base.py", "__init__.py")]


def config_of(task: str, kind: str) -> str | None:
    """Returns the program's own `configs/TASK_KIND.py`, where there is one.

    Digits may stand behind the kind, as in `can_ddim8`: of several the last.
    """
    name = re.compile(rf"configs/{re.escape(task)}_{kind}[0-9]*\.py")
    found = [file for file in config_files() if name.fullmatch(file)]
    return found[-1] if found else None


def _stem(path: str) -> str:
    return Path(path).stem
