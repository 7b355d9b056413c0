"""What a worker process loads."""

import subprocess
import sys


def test_a_worker_needs_no_numpy_and_no_database() -> None:
    heavy = ("numpy", "scipy", "pyarrow", "highspy", "sqlalchemy", "fastapi", "torch", "vllm")
    code = f"import sys, autopoiesis.worker.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
