"""Packs what a GPU machine without a package index lacks, for `accelerator.py`.

    pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels \
        --platform manylinux_2_28_x86_64 mujoco==3.3.7
    python -m benchmarks.pack --wheels=wheels --output=pack.tar.gz
    # there, in a clone of this repository:
    mkdir /tmp/pack && tar -xzf pack.tar.gz -C /tmp/pack
    PYTHONPATH=/tmp/pack python -m benchmarks.accelerator

The pack holds the installed robosuite without what the tasks do not load (590 MB become
some MB), the installed packages of `--packages`, pure Python ones, and the contents of
wheels: MuJoCo's is compiled, for one version of Python. It is made for one machine and
one use; licences of what it holds are those of the packages, whose metadata is in it.
"""

import argparse
import io
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from dynvgd_jax.core.command import run_command
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs.robosuite import build, tasks
from dynvgd_jax.envs.robosuite.headless import robosuite

PACKAGES = "ml_collections,tensorboardX,termcolor"  # beside robosuite
ASSETS = Path("models", "assets")
# Of robosuite's own folder, beside its assets: programs and settings.
SUFFIXES = (".py", ".json", ".yaml", ".txt", "METADATA")


def task_assets() -> set[Path]:
    """Returns the meshes and textures that the tasks' scenes name, absolute paths."""
    named = set()
    for name in tasks.TASKS:
        xml = build.build_env(tasks.TASKS[name]).model.get_xml()
        named |= {Path(file).resolve() for file in re.findall(r'\bfile="([^"]+)"', xml)}
    return named


def robosuite_files() -> Iterator[Path]:
    """Yields what of the installed robosuite the tasks need."""
    root = Path(robosuite.__file__).resolve().parent
    assets = task_assets()
    missing = sorted(path for path in assets if not path.exists())
    if missing:
        raise UserError(f"robosuite lacks {missing[0]}, which a task's scene names")
    yield from sorted(assets)
    for path in sorted(root.rglob("*")):
        of_assets = path.is_relative_to(root / ASSETS)
        if path.is_file() and path.suffix == ".xml" if of_assets else code(path):
            yield path


def code(path: Path) -> bool:
    """Whether a file is a package's program or settings."""
    return path.is_file() and path.name.endswith(SUFFIXES)


def package_files(name: str) -> list[tuple[Path, str]]:
    """Returns the files of an installed pure Python package with their places."""
    try:
        listed = metadata.files(name) or ()
    except metadata.PackageNotFoundError as error:
        raise UserError(f"--packages: {name} is not installed here") from error
    files = [(Path(entry.locate()).resolve(), str(entry)) for entry in listed]
    compiled = [place for _, place in files if place.endswith((".so", ".pyd"))]
    if compiled:
        raise UserError(f"--packages: {name} is compiled ({compiled[0]}): give a wheel")
    return [(path, place) for path, place in files if code(path)]


def pack(output: Path, packages: list[str], wheels: list[Path]) -> None:
    """Writes the pack."""
    site = Path(robosuite.__file__).resolve().parent.parent
    with tarfile.open(output, "w:gz") as tar:
        for path in robosuite_files():
            tar.add(path, path.relative_to(site).as_posix())
        names = [*packages, "robosuite"]
        for path, place in (pair for name in names for pair in package_files(name)):
            if not place.startswith(("robosuite/", "..")):
                tar.add(path, place)
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as zipped:
                for entry in zipped.infolist():
                    member = tarfile.TarInfo(entry.filename)
                    member.size, member.mode = entry.file_size, 0o755
                    if not entry.is_dir():
                        tar.addfile(member, io.BytesIO(zipped.read(entry)))


def main(arguments=None) -> None:
    """Reads the command line, packs, says how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("pack.tar.gz"))
    parser.add_argument("--packages", default=PACKAGES)
    parser.add_argument("--wheels", type=Path, help="folder of wheels")
    options = parser.parse_args(arguments)
    wheels = sorted(options.wheels.glob("*.whl")) if options.wheels else []
    if options.wheels and not wheels:
        raise UserError(f"--wheels: found no wheel in {options.wheels}")
    pack(options.output, [p for p in options.packages.split(",") if p], wheels)
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {size:.1f} MB")


if __name__ == "__main__":
    sys.exit(run_command("pack.py", main))
