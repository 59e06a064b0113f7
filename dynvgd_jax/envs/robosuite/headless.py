"""MuJoCo and robosuite, imported quietly, without graphics, with a place for numba.

    from dynvgd_jax.envs.robosuite.headless import mujoco, robosuite

Nothing here draws. So no OpenGL library is needed, and variables that choose one
(MUJOCO_GL, PYOPENGL_PLATFORM) decide nothing; `render` alone loads one, itself.
A program that draws otherwise imports both before this module, which then leaves them
as they are.
"""

import atexit
import contextlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from importlib import metadata

from numba import config as numba_config
from numba import njit

from dynvgd_jax.core.errors import UserError

log = logging.getLogger(__name__)

# cv2's wheel links libGL, and robosuite only shows images with it; the contexts load
# EGL or GLFW at once.
_GRAPHICS = (
    "cv2",
    "robosuite.renderers.context.egl_context",
    "robosuite.renderers.context.glfw_context",
)
# mujoco and robosuite read these on import and stop where they do not like a value.
_GRAPHICS_VARIABLES = ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID")


def check_versions() -> None:
    """Raises UserError unless robosuite 1.4.x and mujoco < 3.10 are installed.

    robosuite 1.5 orders the observation differently; mujoco 3.10 removed functions
    that robosuite 1.4.1 calls.
    """
    expected = {"robosuite": "1.4.1", "mujoco": "3.3.7"}
    for package, pin in expected.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError as error:
            raise UserError(
                f"{package} is not installed; run: pip install {package}=={pin}"
            ) from error
        major, minor = (int(part) for part in version.split(".")[:2])
        low, high = ((1, 4), (1, 5)) if package == "robosuite" else ((3, 0), (3, 10))
        if not low <= (major, minor) < high:
            raise UserError(
                f"{package} {version} is installed, expected {pin}; run: "
                f"pip install {package}=={pin}"
            )


def numba_can_keep(file: str) -> bool:
    """Whether numba finds a folder for the machine code of functions in `file`.

    It tries NUMBA_CACHE_DIR, the folder of the file and the user's cache folder.
    """

    def probe():
        pass

    probe.__code__ = probe.__code__.replace(co_filename=file)
    try:
        njit(cache=True)(probe)
    except RuntimeError:  # "no locator available"
        return False
    return True


def provide_numba_cache() -> None:
    """Gives numba a folder for this process where it would stop for want of one.

    Raises:
      UserError: there is no place for temporary files either.
    """
    robosuite_file = importlib.util.find_spec("robosuite").origin
    if numba_can_keep(__file__) and numba_can_keep(robosuite_file):
        return
    try:
        folder = tempfile.mkdtemp(prefix="dynvgd_numba_")
    except OSError as error:
        raise UserError(
            f"found no folder for machine code ({error}), expected the installation, "
            "the home folder or the one for temporary files to be writable; set "
            "NUMBA_CACHE_DIR to a folder that is"
        ) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    numba_config.CACHE_DIR = folder
    log.warning(
        "installation and home folder are not writable: the simulator is compiled anew "
        "by every process (about 20 s); set NUMBA_CACHE_DIR to a folder that is"
    )


def _import_both() -> tuple[types.ModuleType, types.ModuleType]:
    check_versions()
    provide_numba_cache()
    # robosuite announces its missing private macros on import, once per process
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    with _without_graphics(), warnings.catch_warnings():
        # invalid escapes in robosuite's docstrings, told where it is compiled first
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        import mujoco
        import robosuite
    return mujoco, robosuite


@contextlib.contextmanager
def _without_graphics() -> Iterator[None]:
    """Puts stand-ins in the place of graphics modules, and switches MuJoCo's off."""
    variables = {name: os.environ.pop(name, None) for name in _GRAPHICS_VARIABLES}
    os.environ["MUJOCO_GL"] = "disabled"
    missing = [name for name in _GRAPHICS if name not in sys.modules]
    sys.modules.update({name: _stand_in(name) for name in missing})
    try:
        yield
    finally:
        for name in missing:  # whoever imports them later gets the real ones
            del sys.modules[name]
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _stand_in(name: str) -> types.ModuleType:
    """A module whose functions and classes say that nothing is drawn here."""

    def refuse(*arguments, **options):
        raise UserError(
            f"found a call to draw ({name}), expected none: robosuite was imported "
            "without graphics; import mujoco, cv2 and robosuite before dynvgd_jax "
            "where something is to be drawn"
        )

    def find(attribute):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return refuse

    module = types.ModuleType(name)
    module.__getattr__ = find
    return module


mujoco, robosuite = _import_both()
