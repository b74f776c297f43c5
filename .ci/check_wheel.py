"""Build the wheel, compare its kernels with the folder, and test it in an environment of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The parts that depend on how the package was built: what it ships, finds at run time and starts.
# What the wheel could lack: modules, kernels and their headers, the commands.
TESTS = [
    "test_architecture.py", "test_backprop.py", "kernels/test_kernels.py", "kernels/test_signatures.py",
    "ops/test_every_device.py", "nn/test_module.py",
    "cli/test_commands.py", "cli/test_train.py",
]  # fmt: skip


def run(*command: object, **options: object) -> None:
    print("+", *command, flush=True)
    subprocess.run([str(c) for c in command], check=True, **options)  # type: ignore[call-overload]


def check_contents(wheel: Path) -> None:
    """Every kernel is in the wheel as it stands in the folder, and nothing shadows the module gp.kernels."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        shipped = {Path(n).name: archive.read(n) for n in names if n.startswith("gpuprop/_cuda/")}
    folder = {p.name: p.read_bytes() for p in (ROOT / "kernels").iterdir() if p.suffix in (".cu", ".cuh")}
    assert folder, "no kernels in the folder"
    assert shipped == folder, f"kernels in the wheel differ: {sorted(set(shipped) ^ set(folder))}"
    assert "gpuprop/py.typed" in names
    assert not any(n.startswith(("gpuprop/kernels/", "tests/", "examples/")) for n in names)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="gpuprop-wheel-") as folder:
        work = Path(folder)
        # from an sdist, as the build tool does by default: what is missing there is missing in the wheel too
        run(sys.executable, "-m", "build", "--outdir", work / "dist", ROOT)
        (wheel,) = (work / "dist").glob("*.whl")
        check_contents(wheel)
        venv.create(work / "env", with_pip=True)
        python = work / "env" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", f"{wheel}[test]")
        shutil.copytree(ROOT / "tests", work / "tests")
        shutil.copytree(ROOT / "examples", work / "examples")
        shutil.copy(ROOT / "pyproject.toml", work)  # for pytest's settings; the package is not in this folder
        where = subprocess.check_output(
            [python, "-c", "import gpuprop; print(gpuprop.__file__)"], cwd=work, text=True
        )
        assert str(work / "env") in where, f"the tests would not use the wheel but {where}"
        environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
        run(
            python,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-m",
            "not full and not alone",
            *(f"tests/{t}" for t in TESTS),
            cwd=work,
            env=environment,
        )
    print("the wheel ships what it should and works outside the checkout")


if __name__ == "__main__":
    main()
