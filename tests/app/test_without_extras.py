"""The command where only the layer is installed, and what it imports."""

import subprocess
import sys


def test_it_names_what_to_install():
    code = "import sys; sys.modules['cyclopts'] = None; from tidegate.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "tidegate's commands need cyclopts, which comes with them: pip install 'tidegate[app]'\n"


def test_it_starts_without_what_only_some_commands_need():
    code = "import sys, tidegate.cli; print(*{'matplotlib', 'pandas', 'plotly', 'scipy', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("\n", "")
